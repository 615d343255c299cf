package harness

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
)

// marker identifies an event inside its body, which every gateway that keeps bodies carries along:
// a prefix, then the run and the event's number in hex. Times need not be part of it, because the
// load and the sink share their memory.
type marker struct {
	run uint32
	seq uint32
}

const (
	markerPrefix = "kapsel-bench:"
	markerLen    = len(markerPrefix) + 2*markerBytes
	markerBytes  = 4 + 4
)

// put writes the marker to the first markerLen bytes of b.
func (m marker) put(b []byte) {
	var raw [markerBytes]byte
	binary.BigEndian.PutUint32(raw[0:], m.run)
	binary.BigEndian.PutUint32(raw[4:], m.seq)
	copy(b, markerPrefix)
	hex.Encode(b[len(markerPrefix):markerLen], raw[:])
}

// findMarker returns the first marker in a body.
func findMarker(body []byte) (m marker, ok bool) {
	_, rest, ok := bytes.Cut(body, []byte(markerPrefix))
	if !ok || len(rest) < 2*markerBytes {
		return m, false
	}
	var raw [markerBytes]byte
	if _, err := hex.Decode(raw[:], rest[:2*markerBytes]); err != nil {
		return m, false
	}
	return marker{
		run: binary.BigEndian.Uint32(raw[0:]),
		seq: binary.BigEndian.Uint32(raw[4:]),
	}, true
}

const (
	bodyOpen  = `{"type":"bench.event","marker":"`
	bodyPad   = `","pad":"`
	bodyClose = `"}`

	publishOpen  = `{"type":"bench.event","data":{"marker":"`
	publishClose = `"}}`
)

// MinSize is the smallest body of an event, in bytes.
const MinSize = len(publishOpen) + markerLen + len(bodyPad) + len(publishClose)

// newBody returns a JSON body of exactly size bytes and the offset of its marker: a webhook's, or
// what publishes an event that has one.
func newBody(size int, publish bool) (body []byte, markerAt int) {
	opening, closing := bodyOpen, bodyClose
	if publish {
		opening, closing = publishOpen, publishClose
	}
	body = make([]byte, 0, size)
	body = append(body, opening...)
	markerAt = len(body)
	body = append(body, bytes.Repeat([]byte("-"), markerLen)...)
	body = append(body, bodyPad...)
	body = append(body, bytes.Repeat([]byte("x"), size-len(body)-len(closing))...)
	return append(body, closing...), markerAt
}
