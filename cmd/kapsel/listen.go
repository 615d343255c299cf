package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/client"
	"github.com/kapsel-hq/kapsel/internal/delivery"
	"github.com/kapsel-hq/kapsel/internal/egress"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// listenCmd posts copies of events to a program on the developer's machine. It does not affect the events'
// deliveries.
type listenCmd struct {
	Source   string        `arg:"" optional:"" complete:"source" help:"The source whose events to post; its id, src_…, or its name."`
	Tenant   string        `complete:"tenant" placeholder:"TENANT" help:"With the admin key: the tenant whose source or endpoint it is."`
	Endpoint string        `complete:"endpoint" placeholder:"ENDPOINT" help:"The endpoint whose events to post, in place of a source; its id or name. Without either an endpoint is made, on a server that runs with --dev."`
	To       string        `required:"" placeholder:"PORT|URL" help:"Where to post them: 3000, localhost:3000, or a URL with a path."`
	After    string        `xor:"from" placeholder:"EVENT" help:"Begin behind this event, evt_…, or 0: with the oldest one."`
	Now      bool          `xor:"from" help:"Begin with the next event, wherever it left off before."`
	Timeout  time.Duration `default:"30s" placeholder:"DURATION" help:"How long to wait for an answer (default ${default})."`
}

// Help says what it does and has examples.
func (listenCmd) Help() string {
	return `Posts each event of a source or an endpoint to a program on this machine, and prints a line for each
with what the program answered. It is a view: deliveries go to the endpoints' URLs as ever.

It posts what a delivery would: the same bytes, and the headers that are sent along, without those
that an endpoint adds and values that open something. It signs as a delivery does (Standard
Webhooks), with a secret of its own, which is printed at the start and kept for the source or the
endpoint. Of a source it posts all that comes in, whoever subscribes to it.

One event follows the other. When nothing accepts connections, as while the program is built anew, it
tries 5 times in 8 seconds, says so and goes on with the next event; whatever is answered is final.

It keeps how far it came, for each of these and each server, in the user's cache folder, and goes on
from there when it is started again, or after Kapsel was away. At first it begins with the next
event.

On a server that runs with --dev neither is needed: an endpoint with the name listen is made, whose
deliveries go to the inbox.

Examples:
  kapsel listen --to 3000
  kapsel listen stripe --to 3000
  kapsel listen --endpoint orders --to localhost:3000
  kapsel listen --endpoint ep_01m84yz4zqfgjtcypmsesbpznb --to http://localhost:3000/webhooks --now`
}

func (c listenCmd) do(ctx context.Context, s *session) error {
	to, err := localURL(c.To)
	if err != nil {
		return err
	}
	if c.Timeout <= 0 {
		return settingError("--timeout: must be more than 0")
	}
	from, err := c.from(ctx, s)
	if err != nil {
		return err
	}
	l := listener{session: s, to: delivery.Recipient{URL: to, Timeout: c.Timeout, Along: from.along}, transport: egress.New(anywhere)}
	if l.kept, err = placeOf(s.Server, from.id); err != nil {
		fmt.Fprintf(s.err, "kapsel: what was posted is not remembered: %v\n", err)
	}
	l.placed = l.kept.read()
	secret := l.sign()
	begin, after := "from now on", c.After
	if after == "" && !c.Now {
		after = l.After
	}
	if after != "" {
		begin = "from where it left off"
		if c.After != "" {
			begin = "behind " + clean(c.After)
		}
	}
	fmt.Fprintf(s.err, "listening to %s (%s) at %s, %s; posting to %s\n", clean(from.name), from.id, s.Server, begin, to)
	card(s.err, fact{"  senders post to", from.senders}, fact{"  signed with", secret + "  (of kapsel listen alone)"})
	stream := from.stream
	stream.After, stream.Moved, stream.Lost = after, l.keep, s.lost
	for e, err := range s.StreamEvents(ctx, stream) {
		if err == nil {
			err = l.bring(ctx, e.Event)
		}
		switch {
		case err == nil:
			l.keep(e.Position) // also when it was interrupted meanwhile: this one is done
		case ctx.Err() != nil: // interrupted, which is how it ends
			return nil
		case kapselCode(err) == string(kapsel.Conflict):
			return fmt.Errorf("begin anew with --now: %w", err)
		default:
			return err
		}
	}
	return nil
}

// listened is the source or the endpoint whose events kapsel listen posts.
type listened struct {
	id, name string
	senders  string // the URL or the subscriptions that events come from, for people
	along    delivery.Forwarding
	stream   client.StreamOptions
}

// from returns the source or the endpoint that the command line names. If it names none, from makes
// an endpoint, which needs a development server.
func (c listenCmd) from(ctx context.Context, s *session) (listened, error) {
	_, notEndpoint := kapsel.ParseEndpointID(c.Source)
	switch {
	case c.Source == "":
		ep, err := c.endpoint(ctx, s)
		return listened{
			id: ep.ID, name: ep.Name, senders: cmp.Or(there(ep.IngestURL), subscribed(ep)),
			along:  delivery.NewForwarding(ep.Headers.Drop, ep.Headers.Keep, true, ep.ForwardQuery),
			stream: client.StreamOptions{EndpointID: ep.ID},
		}, err
	case c.Endpoint != "":
		return listened{}, settingError("--endpoint: does not go with a source; listen to one of them")
	case notEndpoint == nil:
		return listened{}, settingError("%s is an endpoint; name it with --endpoint", c.Source)
	}
	id, err := s.sourceNamed(ctx, c.Source, c.Tenant)
	if err != nil {
		return listened{}, err
	}
	v, err := s.GetSource(ctx, id)
	return listened{
		id: v.ID, name: v.Name, senders: v.IngestURL, along: delivery.NewForwarding(nil, nil, true, false),
		stream: client.StreamOptions{SourceID: v.ID},
	}, err
}

// endpoint returns the endpoint that --endpoint names or, without it, one that devEndpoint makes.
func (c listenCmd) endpoint(ctx context.Context, s *session) (client.Endpoint, error) {
	if c.Endpoint == "" {
		return s.devEndpoint(ctx, c.Tenant, "listen", nil)
	}
	id, err := s.endpointNamed(ctx, c.Endpoint, c.Tenant)
	if err != nil {
		return client.Endpoint{}, err
	}
	return s.GetEndpoint(ctx, id)
}

// anywhere allows requests to all addresses: the program to which they go is the developer's own.
var anywhere = egress.Config{Allow: []egress.AllowRule{
	{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}, {Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0)},
}}

// kapselCode returns the code of an error that the server answered, "" for another error.
func kapselCode(err error) string {
	var refused *client.Error
	if errors.As(err, &refused) {
		return refused.Code
	}
	return ""
}

// localURL returns the URL that --to names. The text may be a URL, a host with a port, or a port.
func localURL(text string) (*url.URL, error) {
	if _, err := strconv.ParseUint(text, 10, 16); err == nil {
		text = "localhost:" + text
	}
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return nil, settingError("--to: must be a port, a host with a port, such as localhost:3000, or a URL of http or https")
	}
	if u.Path == "" {
		u.Path = "/"
	}
	u.Fragment = ""
	return u, nil
}

// listener posts events to the developer's program, one after the other.
type listener struct {
	*session
	to        delivery.Recipient
	transport http.RoundTripper
	kept      place
	placed         // the content of kept
	unkept    bool // it was printed that kept cannot be written
}

// sign has the listener sign with the kept secret, or with a new one if none is kept, and returns the secret.
func (l *listener) sign() (text string) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(l.SigningSecret, "whsec_"))
	if err != nil || len(key) == 0 {
		var fresh secret.Text
		fresh, key = secret.NewSigningSecret()
		l.SigningSecret = fresh.Reveal()
	}
	l.to.Signer = signature.NewSigner([]signature.SigningKey{{HMAC: key}})
	return l.SigningSecret
}

// brought is the outcome of posting an event.
type brought struct {
	EventID     string    `json:"event_id"`
	ReceivedAt  time.Time `json:"received_at"`
	ContentType string    `json:"content_type"`
	Size        int64     `json:"size"`
	Tries       int       `json:"tries"`
	Status      int       `json:"status,omitzero"` // of the answer
	Error       string    `json:"error,omitzero"`  // why there is no answer
	Millis      float64   `json:"ms"`              // of the last try
}

// How often an event is posted while nothing accepts connections.
const (
	localTries = 5
	localDelay = 500 * time.Millisecond // doubled after each
)

// bring posts an event and prints the outcome. It fails if Kapsel cannot be asked or ctx ends, but not because
// of the local program.
func (l *listener) bring(ctx context.Context, e client.Event) error {
	var detail client.EventDetail
	var body []byte
	err := l.patiently(ctx, func() (err error) {
		if detail, err = l.GetEvent(ctx, e.ID); err != nil {
			return err
		}
		body, err = l.GetPayload(ctx, e.ID)
		return err
	})
	b := brought{EventID: e.ID, ReceivedAt: e.ReceivedAt, ContentType: e.ContentType, Size: e.Size}
	switch {
	case kapselCode(err) == string(kapsel.NotFound) && detail.ErasedAt != nil:
		b.Error = "the event's contents were erased"
	case kapselCode(err) == string(kapsel.NotFound):
		b.Error = "retention has deleted the event"
	case err != nil:
		return err
	default:
		l.post(ctx, detail, body, &b)
	}
	if ctx.Err() != nil {
		return ctx.Err() // it is posted again next time
	}
	switch {
	case l.JSON:
		return l.own(b)
	case l.Quiet:
		return printed(fmt.Fprintln(l.out, b.EventID))
	}
	answer := strconv.Itoa(b.Status) + " " + http.StatusText(b.Status)
	if b.Error != "" {
		answer = "no answer: " + b.Error
		if b.Tries > 1 {
			answer += fmt.Sprintf(", %d times; going on with the next", b.Tries)
		}
	}
	return printed(fmt.Fprintf(l.out, "%s  %s  %.0f ms\n", eventLine(e), strings.TrimSpace(answer), b.Millis))
}

// patiently repeats a request to Kapsel until it succeeds, is refused for good, or ctx ends.
func (l *listener) patiently(ctx context.Context, request func() error) error {
	for delay := localDelay; ; delay = min(2*delay, 10*time.Second) {
		err := request()
		var refused *client.Error
		if err == nil || errors.As(err, &refused) && refused.Status < 500 && refused.Status != http.StatusTooManyRequests || !pause(ctx, delay) {
			return err
		}
	}
}

// pause waits for d and returns true, or returns false as soon as ctx ends.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// post posts an event to the local program, again if nothing accepts connections, and sets the outcome.
func (l *listener) post(ctx context.Context, e client.EventDetail, body []byte, b *brought) {
	for delay := localDelay; ; delay *= 2 {
		b.Tries++
		start := time.Now()
		var code kapsel.Code
		b.Status, code, b.Error = l.exchange(ctx, e, body, b.Tries)
		b.Millis = float64(time.Since(start).Microseconds()) / 1000
		if code != kapsel.ConnectionRefused || b.Tries == localTries || !pause(ctx, delay) {
			return
		}
	}
}

// exchange posts an event once. If there is no answer, status is 0 and text says why.
func (l *listener) exchange(ctx context.Context, e client.EventDetail, body []byte, try int) (status int, code kapsel.Code, text string) {
	ctx, cancel := context.WithTimeout(ctx, l.to.Timeout)
	defer cancel()
	event, err := received(e, body)
	if err != nil {
		return 0, "", err.Error()
	}
	target, header := l.to.Compose(&delivery.Sending{Event: &event, Attempt: try, Version: buildVersion(), At: time.Now()})
	resp, err := l.transport.RoundTrip(egress.NewRequest(ctx, target, header, body))
	if err != nil {
		code, text = egress.Classify(err)
		return 0, code, text
	}
	egress.ReadBody(resp, 0, egress.BodyRead, nil)
	return resp.StatusCode, "", ""
}

// received returns an event as the server received it. Values that were not stored are redacted.
func received(e client.EventDetail, body []byte) (ev kapsel.Event, err error) {
	if ev.ID, err = kapsel.ParseEventID(e.ID); err != nil {
		return ev, fmt.Errorf("the server's answer has no event: %w", err)
	}
	ev.ReceivedAt, ev.Type, ev.ContentType, ev.Query, ev.Body = e.ReceivedAt, there(e.Type), e.ContentType, e.Query, body
	for _, f := range e.Headers {
		if len(f) == 2 {
			ev.Header = append(ev.Header, kapsel.HeaderField{Name: f[0], Value: f[1]})
		}
	}
	return ev, nil
}

// keep writes how far the listener has come. If that fails, it prints a warning once and goes on.
func (l *listener) keep(position string) {
	l.After = position
	if err := l.kept.write(l.placed); err != nil && !l.unkept {
		l.unkept = true
		fmt.Fprintf(l.err, "kapsel: what was posted is not remembered: %v\n", err)
	}
}

// place is the path of the file that holds the position of the last event posted; "" stands for no file.
type place string

// placeOf returns the file for an endpoint or a source, by its ID, of a server.
func placeOf(server, id string) (place, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(strings.TrimRight(server, "/") + "\n" + id))
	return place(filepath.Join(cache, "kapsel", "listen", hex.EncodeToString(sum[:16])+".json")), nil
}

// placed is the content of the file, in JSON.
type placed struct {
	After         string `json:"after"`          // the position
	SigningSecret string `json:"signing_secret"` // signs what is posted
}

// read returns the content of the file, the zero value if the file cannot be read.
func (p place) read() (kept placed) {
	if text, err := os.ReadFile(string(p)); err == nil {
		_ = json.Unmarshal(text, &kept)
	}
	return kept
}

// write writes a position and the secret to the file. Whenever the process dies, the file has either this
// position or the one before. After a crash of the machine it may have an older one; some events are then
// posted again.
func (p place) write(kept placed) error {
	if p == "" {
		return nil
	}
	text, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(string(p)), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(string(p)), "*.tmp") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), string(p))
	}
	if err != nil {
		if gone := os.Remove(f.Name()); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	return err
}
