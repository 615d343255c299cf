package store_test

import (
	"bytes"
	"encoding/hex"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// drawAttempt draws an attempt, with what its leaf says of its contents.
func drawAttempt(t *rapid.T) (a kapsel.Attempt, c kapsel.Commitments) {
	id := rapid.Custom(func(t *rapid.T) (id [16]byte) {
		copy(id[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		id[0] |= 1
		return id
	})
	a = kapsel.Attempt{
		ID: id.Draw(t, "attempt"), DeliveryID: id.Draw(t, "delivery"), EventID: id.Draw(t, "event"),
		EndpointID: id.Draw(t, "endpoint"), TenantID: id.Draw(t, "tenant"),
		Number:    rapid.IntRange(1, 1<<31-1).Draw(t, "number"),
		StartedAt: time.UnixMicro(rapid.Int64Range(0, 4e15).Draw(t, "start")).UTC(),
		Duration:  time.Duration(rapid.Int64Range(0, 1e12).Draw(t, "duration")), StatusCode: rapid.IntRange(100, 999).Draw(t, "status"),
		ErrorCode: kapsel.Code(rapid.SampledFrom([]string{"", "E2003", "E2010"}).Draw(t, "code")),
	}
	for _, sum := range []*[]byte{&c.URL, &c.Payload, &c.Request, &c.Response} {
		if rapid.Bool().Draw(t, "committed") {
			*sum = rapid.SliceOfN(rapid.Byte(), store.HashSize, store.HashSize).Draw(t, "sum")
		}
	}
	return a, c
}

// TestRecord checks that an entry gives back what was recorded of an attempt, and that no other bytes in
// its record's place say the same.
func TestRecord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, c := drawAttempt(t)
		want := store.RecordOf(&a, &c)
		b := store.AppendEntry([]byte("before"), &a, &c)[len("before"):]
		e := store.ReadEntry(store.EntryKey{Row: 7, AttemptID: a.ID}, b)
		got, err := store.ReadRecord(e.AttemptID, e.Record)
		if err != nil || e.TenantID != a.TenantID || store.TenantOf(b) != a.TenantID || e.Row != 7 || !cmp.Equal(want, got) {
			t.Fatalf("%+v, %v: %s", e, err, cmp.Diff(want, got))
		}
		changed := bytes.Clone(e.Record)
		switch at := rapid.IntRange(0, len(changed)-1).Draw(t, "at"); rapid.IntRange(0, 2).Draw(t, "change") {
		case 0:
			changed[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
		case 1:
			changed = changed[:at]
		case 2: // a byte more, as in a number that is longer than it must be
			changed = bytes.Join([][]byte{changed[:at], {rapid.Byte().Draw(t, "byte")}, changed[at:]}, nil)
		}
		if bytes.Equal(changed, e.Record) {
			return
		}
		if other, err := store.ReadRecord(a.ID, changed); err == nil && cmp.Equal(want, other) {
			t.Fatalf("%x and %x say the same", e.Record, changed)
		}
	})
}

// TestReadEntry_First checks that an entry of the first form, which a release before may have left in the
// outbox, gives the record of its attempt.
func TestReadEntry_First(t *testing.T) {
	b, err := hex.DecodeString("0105" + // the version; there are commitments to the URL and the request
		"01020202020202020202020202020202" + "01030303030303030303030303030303" + "01040404040404040404040404040404" + "01050505050505050505050505050505" +
		"000627f700a6dbb7" + "0000000002faf080" + "03" + "f703" + // µs since the epoch, 50 ms, attempt 3, status 503
		"0606060606060606060606060606060606060606060606060606060606060606" + "0707070707070707070707070707070707070707070707070707070707070707" +
		"4532303035")
	if err != nil {
		t.Fatal(err)
	}
	id := func(n byte) (id [16]byte) {
		copy(id[:], bytes.Repeat([]byte{n}, 16))
		id[0] = 1
		return id
	}
	start := time.UnixMicro(0x000627f700a6dbb7)
	want := store.Record{
		AttemptID: id(1), DeliveryID: id(2), EventID: id(3), EndpointID: id(4), Number: 3, StatusCode: 503, ErrorCode: "E2005",
		StartedAt: start.UnixMilli(), EndedAt: start.Add(50 * time.Millisecond).UnixMilli(),
		Commitments: kapsel.Commitments{URL: bytes.Repeat([]byte{6}, 32), Request: bytes.Repeat([]byte{7}, 32)},
	}
	e := store.ReadEntry(store.EntryKey{AttemptID: id(1)}, b)
	got, err := store.ReadRecord(e.AttemptID, e.Record)
	if err != nil || e.TenantID != kapsel.TenantID(id(5)) || !cmp.Equal(want, got) {
		t.Errorf("%+v, %v: %s", e, err, cmp.Diff(want, got))
	}
	for n := range len(b) - len("E2005") {
		if e := store.ReadEntry(store.EntryKey{AttemptID: id(1)}, b[:n]); !e.TenantID.IsZero() {
			t.Errorf("the first %d bytes are an entry of %s", n, e.TenantID)
		} else if _, err := store.ReadRecord(e.AttemptID, e.Record); err == nil {
			t.Errorf("the first %d bytes are a record", n)
		}
	}
}
