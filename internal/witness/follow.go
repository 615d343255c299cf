package witness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kapsel-hq/kapsel/receipt"
)

const (
	// followed is how many logs are read at once.
	followed = 8
	// shortRounds is in how many rounds in a row a log must show less than it had, so that it is an alarm: a
	// cache between the two may show an older head for a while.
	shortRounds = 3
)

// Follow asks the logs that have a URL for their heads, and cosigns those that follow, every so often until
// ctx ends.
func (w *Witness) Follow(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		w.Round(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Round asks each log that has a URL once, and returns how many could not be read or followed.
func (w *Witness) Round(ctx context.Context) (lost int) {
	var failed atomic.Int64
	var group errgroup.Group
	group.SetLimit(followed)
	asked := map[string]bool{} // a log with several keys is asked once
	for _, l := range w.cfg.Logs {
		if at := l.URL + " " + l.Name(); l.URL != "" && !asked[at] {
			asked[at] = true
			group.Go(func() error {
				if err := w.follow(ctx, l); err != nil && ctx.Err() == nil {
					failed.Add(1)
					w.cfg.Log.Warn("a log could not be followed; trying again", "log", l.Name(), "url", l.URL, "error", err)
				}
				return nil
			})
		}
	}
	group.Wait()
	w.lost.Store(failed.Load())
	return int(failed.Load())
}

// follow reads the newest head of a log and cosigns it, or raises an alarm.
func (w *Witness) follow(ctx context.Context, l Log) error {
	// What is remembered here was published before the log is asked, so the log must show as much.
	size, checkpoint := w.size(l.Name())
	text, head, err := w.head(ctx, l)
	if err != nil {
		return err
	}
	rounds := w.shows(l.Name(), head.Size < size)
	if head.Size < size && rounds < shortRounds {
		return fmt.Errorf("the log shows %d leaves, and had %d: a cache may have answered, or else it is an alarm after %d rounds", head.Size, size, shortRounds)
	}
	if head.Size < size {
		w.alarm(Alarm{Origin: head.Origin, Kind: Shrank, Had: checkpoint, Got: text,
			Text: fmt.Sprintf("the log %s shows %d leaves, and has signed a head of %d", head.Origin, head.Size, size)})
		return fmt.Errorf("the log shows %d leaves, and had %d", head.Size, size)
	}
	var proof []receipt.Hash
	if size > 0 && head.Size > size {
		if proof, err = w.proof(ctx, l, size, head.Size); err != nil {
			return err
		}
	}
	_, err = w.Add(Request{size, proof, text})
	var a *Answered
	if errors.As(err, &a) && a.Status == http.StatusConflict && a.Size != size {
		return nil // the log has posted a newer head meanwhile
	}
	if errors.As(err, &a) && a.Status == http.StatusUnprocessableEntity {
		// The log itself has given the head and the proof, so a wrong proof is its own word.
		w.alarm(Alarm{Origin: head.Origin, Kind: Forked, Had: checkpoint, Got: text, Proof: proof,
			Text: fmt.Sprintf("the log %s cannot show that the first %d of its %d leaves are those of the head that it signed before", head.Origin, size, head.Size)})
	}
	return err
}

// head reads the newest head of a log.
func (w *Witness) head(ctx context.Context, l Log) (text string, head receipt.Checkpoint, err error) {
	if text, err = w.get(ctx, l, "/checkpoint"); err != nil {
		return "", head, err
	}
	keys, _ := w.keysOf(l.Name(), nil) // they have its name, and those of the same Kapsel
	s, err := receipt.OpenCheckpoint(text, keys...)
	if err != nil {
		return "", head, err
	}
	if s.Origin != l.Name() {
		return "", head, fmt.Errorf("it answered with a head of the log %s", quoted(s.Origin))
	}
	return text, s.Checkpoint, nil
}

// proof reads the proof that a log of one size begins with that of another.
func (w *Witness) proof(ctx context.Context, l Log, from, to int64) ([]receipt.Hash, error) {
	text, err := w.get(ctx, l, fmt.Sprintf("/consistency?from=%d&to=%d", from, to))
	if err != nil {
		return nil, err
	}
	var p receipt.ConsistencyProof
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return nil, errors.New("it answered with something that is no consistency proof")
	}
	if p.From != from || p.To != to || len(p.ProofHashes) > maxProof {
		return nil, errors.New("it answered with another proof than was asked for")
	}
	return p.ProofHashes, nil
}

// get reads a public route of a log.
func (w *Witness) get(ctx context.Context, l Log, route string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, exchange)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, l.URL+"/attestation/"+strings.TrimPrefix(l.Name(), "kapsel/")+route, nil)
	if err != nil {
		return "", err
	}
	r.Header.Set("Cache-Control", "no-cache") // caches between must ask the log
	status, _, body, err := fetch(w.cfg.Do, r)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("it answered %d: %s", status, quoted(body))
	}
	return body, err
}
