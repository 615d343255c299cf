package ingest_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/ingest"
)

// deadlines is an answer that keeps the deadlines that are set.
type deadlines struct {
	*httptest.ResponseRecorder
	read, write time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error  { d.read = t; return nil }
func (d *deadlines) SetWriteDeadline(t time.Time) error { d.write = t; return nil }

// TestReadTime checks that a large body has more time to arrive, by its announced length or by how
// much has arrived, and that a usual body has the server's time.
func TestReadTime(t *testing.T) {
	const mib = 1 << 20
	if got := ingest.ReadTime(64 * mib); got != 30*time.Second+54*3*time.Second {
		t.Errorf("64 MiB have %v", got)
	}
	w := newWorld(t)
	w.handler.MaxBody = 64 * mib
	ep := w.endpoint(nil)
	for _, tt := range []struct {
		announced, sent, least, most int64 // announced -1: in chunks
	}{
		{10 * mib, 0, 0, 0}, {10*mib + 1, 0, 11 * mib, 11 * mib}, {64 * mib, 0, 64 * mib, 64 * mib},
		{-1, 7 * mib, 0, 0}, {-1, 12 * mib, 13 * mib, 64 * mib},
	} {
		body := io.MultiReader(io.LimitReader(zeros{}, tt.sent), broken{})
		r := httptest.NewRequest("POST", path(ep), body)
		r.ContentLength = tt.announced
		got := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		before := time.Now()
		w.handler.ServeHTTP(got, r)
		after := time.Now()
		if got.Code != http.StatusBadRequest {
			t.Fatalf("%+v: answered %d %s", tt, got.Code, got.Body)
		}
		if tt.least == 0 {
			if !got.read.IsZero() || !got.write.IsZero() {
				t.Errorf("%+v: the server's deadlines are moved to %v and %v", tt, got.read, got.write)
			}
			continue
		}
		if got.read.Before(before.Add(ingest.ReadTime(tt.least))) || got.read.After(after.Add(ingest.ReadTime(tt.most))) {
			t.Errorf("%+v: it may be read for %v", tt, got.read.Sub(before))
		}
		if answer := got.write.Sub(got.read); answer <= ingest.AnswerTime {
			t.Errorf("%+v: the answer may take %v more", tt, answer)
		}
	}
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// broken is a connection that breaks.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("it broke") }
