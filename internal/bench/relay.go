package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kapsel-hq/kapsel/internal/harness"
)

// relayWorkers is how many requests to the destination a relay has in flight.
const relayWorkers = 64

// startRelay runs ServeRelay as `bin bench --serve-relay`, with its file in dir.
func startRelay(ctx context.Context, dir, bin, dest string) (*harness.Process, error) {
	free, err := harness.FreeAddrs(1)
	if err != nil {
		return nil, err
	}
	return harness.StartServer(ctx, dir, "relay", bin, free[0], "bench", "--serve-relay", free[0], "--dest", dest, "--dir", dir)
}

// ServeRelay runs the smallest possible durable gateway in Go until ctx ends. It accepts POST
// /ingest/{anything} with net/http, appends the body to the file at path, answers once that is
// synced (one sync for all waiting requests), and then forwards the body to dest once, with
// net/http. It keeps no index, state or outcomes, and cannot recover. Each of these costs a real
// gateway something, so the relay's rate is an upper bound, not a goal.
func ServeRelay(ctx context.Context, l net.Listener, dest, path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("open the relay's file: %w", err)
	}
	defer file.Close()
	journal := newJournal(file)
	forward := newForwarder(dest)

	mux := http.NewServeMux()
	mux.HandleFunc("GET /health/ready", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /ingest/{id}", func(w http.ResponseWriter, r *http.Request) {
		body := bytes.NewBuffer(make([]byte, 0, max(r.ContentLength, 0)+bytes.MinRead))
		if _, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, 10<<20)); err != nil {
			http.Error(w, "the body is too large or was cut off", http.StatusRequestEntityTooLarge)
			return
		}
		if err := journal.append(body.Bytes()); err != nil {
			http.Error(w, "the file cannot be written", http.StatusServiceUnavailable)
			return
		}
		forward.queue <- body.Bytes()
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"status":"received"}`)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 30 * time.Second}
	stopped := context.AfterFunc(ctx, func() { server.Close() })
	defer stopped()
	err = server.Serve(l) // never nil; http.ErrServerClosed when ctx has ended
	journal.close()
	forward.close()
	if ctx.Err() == nil {
		return fmt.Errorf("serve the relay: %w", err)
	}
	return nil
}

// journal appends records to a file with group commit: while one batch is being synced, the next
// one gathers.
type journal struct {
	file *os.File
	wake chan struct{} // has one element while the batch is not empty
	done chan struct{} // closed when the writer has ended

	mu     sync.Mutex // guards what follows
	batch  *batch     // the batch that is gathering
	closed bool
}

// batch is a set of records that are synced together.
type batch struct {
	records []byte
	synced  chan struct{} // closed when err is set
	err     error
}

func newBatch(room []byte) *batch {
	return &batch{records: room[:0], synced: make(chan struct{})}
}

func newJournal(f *os.File) *journal {
	j := &journal{file: f, wake: make(chan struct{}, 1), done: make(chan struct{}), batch: newBatch(nil)}
	go j.write()
	return j
}

// append blocks until the record is durable, or returns why it is not.
func (j *journal) append(record []byte) error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return os.ErrClosed
	}
	b := j.batch
	b.records = binary.LittleEndian.AppendUint32(b.records, uint32(len(record)))
	b.records = append(b.records, record...)
	select {
	case j.wake <- struct{}{}:
	default:
	}
	j.mu.Unlock()
	<-b.synced
	return b.err
}

// write syncs one batch after the other.
func (j *journal) write() {
	defer close(j.done)
	var room []byte // buffer of the previous batch, for reuse
	for range j.wake {
		j.mu.Lock()
		b := j.batch
		j.batch = newBatch(room)
		j.mu.Unlock()
		if _, b.err = j.file.Write(b.records); b.err == nil {
			b.err = j.file.Sync()
		}
		room = b.records
		close(b.synced)
	}
}

// close waits for the last batch.
func (j *journal) close() {
	j.mu.Lock()
	j.closed = true
	close(j.wake)
	j.mu.Unlock()
	<-j.done
}

// forwarder sends bodies to one destination and forgets them.
type forwarder struct {
	queue  chan []byte
	stop   context.CancelFunc
	wg     sync.WaitGroup
	failed atomic.Int64
}

func newForwarder(dest string) *forwarder {
	ctx, cancel := context.WithCancel(context.Background())
	f := &forwarder{queue: make(chan []byte, 1<<20), stop: cancel}
	client := &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			MaxIdleConns:        2 * relayWorkers,
			MaxIdleConnsPerHost: relayWorkers,
			DisableCompression:  true,
		},
	}
	for range relayWorkers {
		f.wg.Go(func() {
			defer client.CloseIdleConnections()
			for {
				select {
				case body := <-f.queue:
					if err := post(ctx, client, dest, body); err != nil {
						f.failed.Add(1) // the event is lost: a relay does not retry
					}
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return f
}

func post(ctx context.Context, client *http.Client, dest string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, dest, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode > 299 {
		return fmt.Errorf("answered %s", strconv.Itoa(resp.StatusCode))
	}
	return nil
}

// close drops bodies that were not forwarded yet.
func (f *forwarder) close() {
	f.stop()
	f.wg.Wait()
}
