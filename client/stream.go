package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// The rhythm of a stream. The server sends something every 15 s.
const (
	streamSilence  = 45 * time.Second // a connection that is silent for this long is dead
	streamMinDelay = 500 * time.Millisecond
	streamMaxDelay = 30 * time.Second
	streamMaxLine  = 1 << 20 // far more than an event has without its body
)

// StreamOptions choose what StreamEvents shows and from where on; a zero field chooses all,
// and what comes from now on.
type StreamOptions struct {
	TenantID   string // with the admin key: the tenant that is meant
	EndpointID string
	SourceID   string
	// After is the position to begin behind: an event's id, a position that the stream gave,
	// or "0" for the oldest event.
	After string
	// Moved, unless nil, is told of positions behind which nothing was missed so far, also
	// while no events come. Keeping the last one, and passing it as After, resumes the stream.
	Moved func(position string)
	// Lost, unless nil, is told that a connection was lost, and when it will be tried again.
	Lost func(err error, again time.Duration)
}

// StreamedEvent is an event of a stream, and the position behind it.
type StreamedEvent struct {
	Event
	Position string `json:"-"`
}

// StreamEvents follows GET /v1/events/stream: each event once, in the order in which they
// become visible, until ctx ends. A connection that is lost is made again, with growing
// delays, and goes on where it was. The iterator ends with an error when the first connection
// fails, when the server refuses the request, or when ctx ends.
//
// A caller that is slow to take events is dropped by the server and connects again; it misses
// nothing.
func (c *Client) StreamEvents(ctx context.Context, o StreamOptions) iter.Seq2[StreamedEvent, error] {
	return func(yield func(StreamedEvent, error) bool) {
		s := streaming{Client: c, StreamOptions: o, yield: yield}
		delay := streamMinDelay
		for ever := false; ; {
			began, err := s.connection(ctx)
			ever = ever || began
			var refused *Error
			switch {
			case errors.Is(err, errEnough):
				return
			case ctx.Err() != nil:
				yield(StreamedEvent{}, ctx.Err())
				return
			case !ever, errors.As(err, &refused) && !refused.passing():
				yield(StreamedEvent{}, err)
				return
			case began:
				delay = streamMinDelay
			}
			wait := delay
			if refused != nil {
				wait = max(wait, refused.RetryAfter)
			}
			delay = min(2*delay, streamMaxDelay)
			if s.Lost != nil {
				s.Lost(err, wait)
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
		}
	}
}

// passing reports whether the same request may succeed later.
func (e *Error) passing() bool {
	return e.Status >= 500 || e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout
}

// errEnough ends a stream whose caller wants no more.
var errEnough = errors.New("enough")

// streaming is a stream over all its connections. After is how far it has come.
type streaming struct {
	*Client
	StreamOptions
	yield func(StreamedEvent, error) bool
}

// connection reads one connection to its end. began is whether the server answered with the
// stream.
func (s *streaming) connection(ctx context.Context) (began bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(streamSilence, cancel) // runs while something is waited for
	defer silence.Stop()
	query := url.Values{}
	setString(query, "tenant_id", s.TenantID)
	setString(query, "endpoint_id", s.EndpointID)
	setString(query, "source_id", s.SourceID)
	setString(query, "after", s.After)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/v1/events/stream?"+query.Encode(), nil)
	if err != nil {
		return false, fmt.Errorf("make the request: %w", err)
	}
	if s.key != "" {
		req.Header.Set("Authorization", "Bearer "+s.key)
	}
	resp, err := s.endless.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if resp.StatusCode != http.StatusOK || kind != "text/event-stream" {
		got, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		return false, refusal(resp, got)
	}
	lines := bufio.NewReader(resp.Body)
	for {
		id, data, err := message(lines)
		if err != nil {
			return true, fmt.Errorf("the stream of %s broke off: %w", s.base, err)
		}
		silence.Stop()
		if len(data) > 0 {
			e := StreamedEvent{Position: id}
			if err := json.Unmarshal(data, &e.Event); err != nil {
				return true, fmt.Errorf("read the stream of %s, which may not be Kapsel: %w", s.base, err)
			}
			tellRaw(ctx, data)
			if !s.yield(e, nil) {
				return true, errEnough
			}
		}
		if id != "" {
			if s.After = id; len(data) == 0 && s.Moved != nil {
				s.Moved(id)
			}
		}
		silence.Reset(streamSilence)
	}
}

// message reads one message of server-sent events (HTML, 9.2), up to the empty line at its end.
func message(r *bufio.Reader) (id string, data []byte, err error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return "", nil, err
		}
		if line = append(line, part...); len(line) > streamMaxLine {
			return "", nil, errors.New("a line is too long")
		}
		if err != nil {
			continue // there is more of the line
		}
		name, value, named := strings.Cut(strings.TrimRight(string(line), "\r\n"), ":")
		line = line[:0]
		switch value = strings.TrimPrefix(value, " "); {
		case name == "" && !named:
			return id, data, nil
		case name == "id":
			id = value
		case name == "data":
			data = append(data, value...)
		}
	}
}
