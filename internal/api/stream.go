package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/feed"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// How often a stream writes, and how long it waits for its reader.
const (
	streamBeat     = 15 * time.Second // a stream writes at least this often
	streamPatience = 10 * time.Second // a client that does not read for this long is dropped
)

func (a *api) stream() {
	op := huma.Operation{
		OperationID: "stream-events", Method: http.MethodGet, Path: "/v1/events/stream", Summary: "Follow events as they come in", Tags: []string{"Events"},
		Responses: map[string]*huma.Response{"200": {
			Description: "The stream",
			Content: map[string]*huma.MediaType{"text/event-stream": {
				Schema: &huma.Schema{Type: huma.TypeString},
				Example: "retry: 1000\nid: 41\n\n" +
					"id: evt_01m84z2d7vf9zws4jxr1p6y3kb.42\n" +
					`data: {"id":"evt_01m84z2d7vf9zws4jxr1p6y3kb","endpoint_id":"ep_01m84yz4zqfgjtcypmsesbpznb","status":"received",…}` + "\n\n" +
					":\nid: 57\n\n",
			}},
		}},
	}
	add(a, access.Read, fails(op, failure{409, kapsel.Conflict}), a.streamEvents)
}

// StreamQuery says which events a stream has, and where it begins.
type StreamQuery struct {
	TenantQuery
	EndpointID kapsel.EndpointID `query:"endpoint_id"`
	SourceID   kapsel.SourceID   `query:"source_id" doc:"Those that came in at it"`
	After      string            `query:"after" maxLength:"100" doc:"Begin behind this: an event's id, or the id of a message; 0: begin with the oldest event"`
	Last       string            `header:"Last-Event-ID" maxLength:"100" doc:"What after means, of a client that connects again"`
}

// streamEvents opens a stream. All refusals happen here, before the stream begins.
func (a *api) streamEvents(ctx context.Context, in *StreamQuery) (*huma.StreamResponse, error) {
	c := callOf(ctx)
	at, err := a.streamFrom(ctx, c.caller, in)
	if err != nil {
		return nil, err
	}
	follower, err := a.Manage.Follow(ctx, c.caller, in.TenantID, store.StreamFilter{EndpointID: in.EndpointID, SourceID: in.SourceID})
	if err != nil {
		return nil, err
	}
	// From here on the feed ends the follower when the key is revoked. An earlier revocation shows now.
	if _, err := a.Guard.Caller(c.r); err != nil {
		follower.Leave()
		return nil, err
	}
	return &huma.StreamResponse{Body: func(huma.Context) {
		defer follower.Leave()
		ctx := follower.Context()
		if until := c.caller.Until; !until.IsZero() {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, until.Sub(a.Clock()))
			defer cancel()
		}
		a.runStream(ctx, c, follower, at)
	}}, nil
}

// streamFrom returns the position that a stream begins behind.
func (a *api) streamFrom(ctx context.Context, c access.Caller, in *StreamQuery) (store.Position, error) {
	name, text := "after", in.After
	if in.Last != "" { // of a client that connects again with the URL that it had at first
		name, text = "Last-Event-ID", in.Last
	}
	var from manage.StreamStart
	if id, err := kapsel.ParseEventID(text); err == nil {
		from.Event = id
	} else if at, ok := store.ParsePosition(text); ok {
		from.Position = &at
	} else if text != "" {
		return at, unreadable(field(name, "must be an event's id, the id of a message of the stream, or 0"))
	}
	at, err := a.Manage.StreamFrom(ctx, c, in.TenantID, from)
	if missing(err) {
		err = unreadable(field(name, "names no event that is there: retention may have deleted it; use the id of a message, or 0 to begin with the oldest event"))
	}
	return at, err
}

// runStream writes events until the context ends or the client is gone or too slow.
func (a *api) runStream(ctx context.Context, c *call, follower *feed.Follower, at store.Position) {
	out := streamWriter{c.w, http.NewResponseController(c.w)}
	h := c.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // for proxies that would gather it
	// The server's time-outs are meant for requests that end. A stream reads only to notice that the client
	// has gone away.
	_ = out.control.SetReadDeadline(time.Time{})
	var message bytes.Buffer
	message.WriteString("retry: 1000\n")
	writeID(&message, at)
	message.WriteString("\n")
	for out.write(message.Bytes()) {
		message.Reset()
		beat, cancel := context.WithTimeout(ctx, streamBeat)
		events, next, err := follower.Next(beat, at)
		quiet := beat.Err() != nil
		cancel()
		at = next
		switch {
		case ctx.Err() != nil:
			out.write(nil) // the end of the answer must go out, too
			return
		case quiet && len(events) == 0:
			message.WriteString(":\n")
			writeID(&message, at)
			message.WriteString("\n")
		case err != nil:
			a.Log.WarnContext(ctx, "api: a stream ended: the store cannot be read", "error", err)
			return
		}
		for _, e := range events {
			if err := writeMessage(&message, &e); err != nil {
				a.Log.ErrorContext(ctx, "api: write an event to a stream", "error", err)
				return
			}
		}
	}
}

// streamWriter writes to a client at once, and gives up on a client that does not read.
type streamWriter struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (w streamWriter) write(b []byte) bool {
	if err := w.control.SetWriteDeadline(time.Now().Add(streamPatience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return false
	}
	if _, err := w.Write(b); err != nil {
		return false
	}
	return w.control.Flush() == nil
}

// writeMessage writes an event as one line: encoded JSON holds no line ends.
func writeMessage(b *bytes.Buffer, e *store.Streamed) error {
	text, err := json.Marshal(viewEvent(&e.EventRecord))
	if err != nil {
		return err
	}
	b.WriteString("id: " + e.At.String() + "\ndata: ")
	b.Write(text)
	b.WriteString("\n\n")
	return nil
}

// writeID writes how far the stream is. It writes nothing for a position between events with the same
// sequence number: such a position names an event, which may be another tenant's.
func writeID(b *bytes.Buffer, at store.Position) {
	if at.ID == store.EndOfSeq {
		b.WriteString("id: " + at.String() + "\n")
	}
}
