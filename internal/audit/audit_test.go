package audit

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/receipt"
)

// TestText checks that the leaf of an attempt can be read whatever status a receiver answered with.
func TestText(t *testing.T) {
	now := time.UnixMilli(1732878003000)
	part := kapsel.PartOf(kapsel.NewEndpointID(now))
	row := kapsel.Attempt{
		ID: kapsel.NewAttemptID(now, part), DeliveryID: kapsel.NewDeliveryID(now, part), EventID: kapsel.NewEventID(now, part),
		EndpointID: kapsel.NewEndpointID(now), Number: 1, StartedAt: now,
	}
	for _, tt := range []struct{ status, want int }{{-1, 0}, {0, 0}, {42, 0}, {99, 0}, {100, 100}, {200, 200}, {999, 999}, {1000, 0}} {
		row.StatusCode = tt.status
		r := store.RecordOf(&row, &kapsel.Commitments{})
		l, err := receipt.ParseLeaf(string(r.Leaf().Append(nil)))
		if err != nil {
			t.Errorf("status %d: %v", tt.status, err)
			continue
		}
		a := l.(*receipt.Attempt)
		if a.StatusCode != tt.want {
			t.Errorf("status %d is %d in the leaf, want %d", tt.status, a.StatusCode, tt.want)
		}
		if !says(a, &row) {
			t.Errorf("status %d: the leaf is taken for changed", tt.status)
		}
	}
}

// TestOpen checks that records that earlier releases have stored make the texts that were signed.
func TestOpen(t *testing.T) {
	id := func(n byte) (id [16]byte) {
		copy(id[:], bytes.Repeat([]byte{n}, 16))
		id[0] = 1
		return id
	}
	ids := hex.EncodeToString(append(append(idBytes(id(2)), idBytes(id(3))...), idBytes(id(4))...))
	sum := func(n byte) string { return hex.EncodeToString(bytes.Repeat([]byte{n}, 32)) }
	leaf := func(rest string) string {
		return fmt.Sprintf(`{"v":1,"type":"attempt","attempt_id":"%s","delivery_id":"%s","event_id":"%s","endpoint_id":"%s",`,
			kapsel.AttemptID(id(1)), kapsel.DeliveryID(id(2)), kapsel.EventID(id(3)), kapsel.EndpointID(id(4))) + rest
	}
	for _, tt := range []struct{ name, record, text string }{
		{"a text", hex.EncodeToString([]byte(`{"v":1,"type":"key","changed_at_ms":1,"public_key":"` + sum(7) + `","former_key":null}`)),
			`{"v":1,"type":"key","changed_at_ms":1,"public_key":"` + sum(7) + `","former_key":null}`},
		{"all commitments", "020f" + ids + "f8e8fa96b732" + "64" + "01" + "c801" + sum(5) + sum(6) + sum(7) + sum(8),
			leaf(`"attempt":1,"attempted_at_ms":1732799018104,"ended_at_ms":1732799018154,"status_code":200,"error_code":null,"url_commitment":"` + sum(5) +
				`","payload_commitment":"` + sum(6) + `","request_commitment":"` + sum(7) + `","response_commitment":"` + sum(8) + `"}`)},
		{"a refused connection", "0203" + ids + "f8e8fa96b732" + "00" + "ac02" + "00" + sum(5) + sum(6) + hex.EncodeToString([]byte("E2003")),
			leaf(`"attempt":300,"attempted_at_ms":1732799018104,"ended_at_ms":1732799018104,"status_code":null,"error_code":"E2003","url_commitment":"` + sum(5) +
				`","payload_commitment":"` + sum(6) + `","request_commitment":null,"response_commitment":null}`)},
	} {
		record, err := hex.DecodeString(tt.record)
		if err != nil {
			t.Fatal(err)
		}
		text, said, err := Open(&store.Leaf{AttemptID: id(1), Record: record})
		if err != nil || said == nil || string(text) != tt.text {
			t.Errorf("%s: %s, %v, want %s", tt.name, text, err, tt.text)
		}
		if _, err := receipt.ParseLeaf(tt.text); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if text, said, err := Open(&store.Leaf{}); text != nil || said != nil || err != nil {
		t.Errorf("a text that was deleted: %s, %v, %v", text, said, err)
	}
}

func idBytes(id [16]byte) []byte { return id[:] }
