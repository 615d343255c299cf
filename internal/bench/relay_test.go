package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel/internal/harness"
)

func TestRelay_DeliversWhatItSynced(t *testing.T) {
	sink := newTestSink(t, harness.OK)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "journal")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- ServeRelay(ctx, l, sink.URL(0), path) }()

	const events, size = 2000, 512
	r, err := harness.Load(t.Context(), harness.LoadConfig{
		URLs: []string{"http://" + l.Addr().String() + "/ingest/1"}, Events: events, Connections: 16, Size: size, Sink: sink,
	})
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		t.Fatal(err)
	}
	got := []int{r.Acked, r.Delivered, r.Lost, r.Duplicates, r.Errors}
	if d := cmp.Diff([]int{events, events, 0, 0, 0}, got); d != "" {
		t.Error(d)
	}
	journal, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for len(journal) > 0 {
		n := binary.LittleEndian.Uint32(journal)
		if n != size {
			t.Fatalf("a record of %d bytes, want %d", n, size)
		}
		seen[string(journal[4:4+n])] = true // each body has its event's number
		journal = journal[4+n:]
	}
	if len(seen) != events {
		t.Errorf("the file has %d events, want %d", len(seen), events)
	}
}
