package harness

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// LoadConfig says which load to send.
type LoadConfig struct {
	URLs        []string      // http or https ingest URLs, used in turn
	Events      int           // number of events; 0: the product of Rate and Duration
	Duration    time.Duration // stop sending after this time; 0: when all events are sent
	Connections int           // most requests in flight; default 1
	// Rate, in events per second, makes an open loop: each event has a scheduled time, and lateness
	// counts as latency. With 0 the loop is closed: each connection sends as soon as it has its
	// answer.
	Rate    float64
	Size    int           // bytes of a body, at least MinSize; default 1024
	Keys    bool          // send a unique Idempotency-Key with each event
	Header  []string      // further headers, "Name: value"
	Publish bool          // the URLs publish events: a body is an event's type and data
	Timeout time.Duration // for one request; default 30 s

	Sink *Sink // destination of the events; nil: deliveries are not counted
	// Load stops waiting for deliveries when none has arrived for Drain; default 30 s. After the last
	// one it waits for duplicates for Settle; default 250 ms.
	Drain  time.Duration
	Settle time.Duration

	// OnProgress, if set, is called every 250 ms and at the end.
	OnProgress func(Progress)
	// OnAnswer, if set, is called after each request, concurrently.
	OnAnswer func(Answered)

	dial func(ctx context.Context, network, addr string) (net.Conn, error) // nil: a real one
}

// Progress is the state of a running Load.
type Progress struct {
	Elapsed   time.Duration
	Events    int // to be sent
	Sent      int
	Acked     int
	Errors    int
	Delivered int
}

// Answered is the answer to one event.
type Answered struct {
	Seq    int
	Status int    // 0: see Err
	Body   []byte // at most 4 KiB; valid during the call
	Err    error
}

// ack holds the times of one event at ingest. The sender that sends the event writes them; they
// are read at the end.
type ack struct {
	due time.Duration // when the event was due to be sent, since the start
	at  time.Duration // when it was answered 2xx, since the start; 0: never
}

// load is the state of one run.
type load struct {
	LoadConfig
	targets []target
	hosts   []host
	run     uint32
	tally   *tally
	acks    []ack

	next     atomic.Int64 // the next event's number
	sent     atomic.Int64
	acked    atomic.Int64
	errors   atomic.Int64
	firstErr atomic.Pointer[error]
	status   [1000]atomic.Int64
}

// target is one ingest URL; host is an index into load.hosts.
type target struct {
	host int
	head []byte // start of each request, up to the headers that vary
}

type host struct {
	addr, name string
	tls        bool
}

// Load sends events, waits until the sink has received those that were acknowledged, and returns
// what it observed. If ctx ends early, Load returns the result up to then and ctx's error. With
// any other error, nothing was sent.
func Load(ctx context.Context, config LoadConfig) (Result, error) {
	l, err := newLoad(config)
	if err != nil {
		return Result{}, err
	}
	if err := l.probe(ctx); err != nil {
		return Result{}, err
	}
	var foreign int64
	if l.Sink != nil {
		l.run, l.tally = l.Sink.expect(l.Events)
		defer l.Sink.forgetRun(l.run)
		foreign = l.Sink.foreign.Load()
	} else {
		l.tally = newTally(0)
	}
	stop := l.report()
	l.send(ctx)
	sending := time.Since(l.tally.start)
	if l.Sink != nil && l.Sink.Mode() == OK {
		l.drain(ctx)
	}
	stop()
	r := l.result(sending)
	if l.Sink != nil {
		r.Foreign = int(l.Sink.foreign.Load() - foreign)
	}
	return r, ctx.Err()
}

// newLoad fills in defaults and prepares everything that is the same for all events.
func newLoad(config LoadConfig) (*load, error) {
	l := &load{LoadConfig: config}
	if l.Events == 0 {
		l.Events = int(l.Rate * l.Duration.Seconds())
	}
	setDefault(&l.Connections, 1)
	setDefault(&l.Size, 1024)
	setDefault(&l.Timeout, 30*time.Second)
	setDefault(&l.Drain, 30*time.Second)
	setDefault(&l.Settle, 250*time.Millisecond)
	if l.dial == nil {
		l.dial = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	}
	switch {
	case len(l.URLs) == 0:
		return nil, errors.New("no ingest URL to send to")
	case l.Events < 1:
		return nil, errors.New("no events to send: set how many, or a rate and a duration")
	case l.Size < MinSize:
		return nil, fmt.Errorf("an event of %d bytes has no room for its marker: the least is %d", l.Size, MinSize)
	case l.Rate < 0, l.Connections < 0, l.Duration < 0:
		return nil, errors.New("rate, connections and duration cannot be negative")
	}
	l.acks = make([]ack, l.Events)
	for _, text := range l.URLs {
		if err := l.addTarget(text); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

func (l *load) addTarget(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%q is not an http or https URL", text)
	}
	h := host{addr: u.Host, name: u.Hostname(), tls: u.Scheme == "https"}
	if u.Port() == "" {
		port := "80"
		if h.tls {
			port = "443"
		}
		h.addr = net.JoinHostPort(h.name, port)
	}
	t := target{host: len(l.hosts)}
	for i := range l.hosts {
		if l.hosts[i] == h {
			t.host = i
		}
	}
	if t.host == len(l.hosts) {
		l.hosts = append(l.hosts, h)
	}
	t.head = fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n",
		u.RequestURI(), u.Host, l.Size)
	for _, h := range l.Header {
		name, _, ok := strings.Cut(h, ":")
		if !ok || name == "" || strings.ContainsAny(h, "\r\n") {
			return fmt.Errorf("%q is not a header: write it as \"Name: value\"", h)
		}
		t.head = append(t.head, h+"\r\n"...)
	}
	l.targets = append(l.targets, t)
	return nil
}

// probe returns an error if a host accepts no connection, before anything is counted.
func (l *load) probe(ctx context.Context) error {
	for _, h := range l.hosts {
		c, err := l.connect(ctx, h)
		if err != nil {
			return fmt.Errorf("nothing to measure: %w", err)
		}
		c.Close()
	}
	return nil
}

func (l *load) connect(ctx context.Context, h host) (net.Conn, error) {
	c, err := l.dial(ctx, "tcp", h.addr)
	if err != nil || !h.tls {
		return c, err
	}
	t := tls.Client(c, &tls.Config{ServerName: h.name})
	ctx, cancel := context.WithTimeout(ctx, l.Timeout)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("TLS with %s: %w", h.addr, err)
	}
	return t, nil
}

// send runs the connections until all events are sent, the duration is over or ctx ends.
func (l *load) send(ctx context.Context) {
	stop := ctx // stops between events; only ctx cuts a running request
	if l.Duration > 0 {
		var cancel context.CancelFunc
		stop, cancel = context.WithTimeout(ctx, l.Duration)
		defer cancel()
	}
	var wg sync.WaitGroup
	for range min(l.Connections, l.Events) {
		wg.Go(func() {
			s := newSender(l)
			defer s.close()
			for s.next(stop, ctx) {
			}
		})
	}
	wg.Wait()
}

// sender sends one event after the other, over one connection per host.
type sender struct {
	*load
	lines    []*line // by host; nil: not connected
	body     []byte
	markerAt int
	request  []byte // reused
	answer   []byte // reused
}

// line is a connection and its reader.
type line struct {
	net.Conn
	r    *bufio.Reader
	head message
	stop func() bool // cancels the closing of the connection at the end of the load's context
}

func newSender(l *load) *sender {
	s := &sender{load: l, lines: make([]*line, len(l.hosts))}
	s.body, s.markerAt = newBody(l.Size, l.Publish)
	return s
}

func (s *sender) close() {
	for i := range s.lines {
		s.drop(i)
	}
}

func (s *sender) drop(host int) {
	if c := s.lines[host]; c != nil {
		c.stop()
		c.Close()
		s.lines[host] = nil
	}
}

// next sends one event. It reports whether there are more.
func (s *sender) next(stop, ctx context.Context) bool {
	if stop.Err() != nil {
		return false
	}
	seq := int(s.load.next.Add(1)) - 1
	if seq >= s.Events {
		return false
	}
	due, ok := s.wait(stop, seq)
	if !ok {
		return false
	}
	s.acks[seq].due = due
	s.sent.Add(1)
	status, body, err := s.exchange(ctx, seq)
	switch {
	case err != nil:
		s.errors.Add(1)
		s.firstErr.CompareAndSwap(nil, &err)
	default:
		s.status[status].Add(1)
		if status >= 200 && status < 300 {
			s.acks[seq].at = max(time.Since(s.tally.start), 1)
			s.acked.Add(1)
		}
	}
	if s.OnAnswer != nil {
		s.OnAnswer(Answered{Seq: seq, Status: status, Body: body, Err: err})
	}
	if err != nil {
		sleep(stop, 10*time.Millisecond) // do not flood a gateway that is down with connections
	}
	return true
}

// wait waits until an event is due, and returns when that was. In an open loop that is its
// scheduled time, however late it is now.
func (s *sender) wait(stop context.Context, seq int) (due time.Duration, ok bool) {
	now := time.Since(s.tally.start)
	if s.Rate == 0 {
		return now, true
	}
	due = time.Duration(float64(seq) / s.Rate * float64(time.Second))
	return due, sleep(stop, due-now)
}

// sleep waits for d. It returns false if ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// exchange sends an event and reads the answer.
func (s *sender) exchange(ctx context.Context, seq int) (int, []byte, error) {
	t := &s.targets[seq%len(s.targets)]
	c := s.lines[t.host]
	if c == nil {
		nc, err := s.connect(ctx, s.hosts[t.host])
		if err != nil {
			return 0, nil, err
		}
		c = &line{Conn: nc, r: bufio.NewReaderSize(nc, 4096)}
		c.stop = context.AfterFunc(ctx, func() { nc.Close() })
		s.lines[t.host] = c
	}
	marker{run: s.run, seq: uint32(seq)}.put(s.body[s.markerAt:])
	s.request = append(s.request[:0], t.head...)
	if s.Keys {
		s.request = append(s.request, "Idempotency-Key: bench-"...)
		s.request = strconv.AppendUint(s.request, uint64(s.run), 16)
		s.request = append(s.request, '-')
		s.request = strconv.AppendInt(s.request, int64(seq), 10)
		s.request = append(s.request, "\r\n"...)
	}
	s.request = append(s.request, "\r\n"...)
	s.request = append(s.request, s.body...)
	status, body, err := s.talk(c)
	if err != nil || c.head.close {
		s.drop(t.host)
	}
	return status, body, err
}

// talk writes the request and reads the answer.
func (s *sender) talk(c *line) (status int, body []byte, err error) {
	if err := c.SetDeadline(time.Now().Add(s.Timeout)); err != nil {
		return 0, nil, err
	}
	if _, err := c.Write(s.request); err != nil {
		return 0, nil, err
	}
	for status < 200 { // skip 1xx responses
		if err := c.head.readHead(c.r, false); err != nil {
			return 0, nil, fmt.Errorf("read the answer: %w", noEOF(err))
		}
		if status, err = c.head.status(); err != nil {
			return 0, nil, err
		}
	}
	switch {
	case status == 204 || status == 304:
		return status, nil, nil // no body, whatever the head says
	case s.OnAnswer == nil:
		err = c.head.discardBody(c.r)
	default:
		body, err = s.readAnswer(c)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("read the answer's body: %w", err)
	}
	return status, body, nil
}

// readAnswer reads the body of an answer to its end and returns the first 4 KiB.
func (s *sender) readAnswer(c *line) ([]byte, error) {
	if s.answer == nil {
		s.answer = make([]byte, 4096)
	}
	body := c.head.body(c.r)
	n, err := io.ReadFull(body, s.answer)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return nil, err
	}
	return s.answer[:n], c.head.finish(c.r)
}

// drain waits for the delivery of the acknowledged events, as long as requests still arrive, and
// then for duplicates.
func (l *load) drain(ctx context.Context) {
	const poll = 10 * time.Millisecond
	seen, since := int64(-1), time.Now()
	for l.undelivered() && time.Since(since) < l.Drain {
		if n := l.tally.requests.Load(); n != seen {
			seen, since = n, time.Now()
		}
		if !sleep(ctx, poll) {
			return
		}
	}
	sleep(ctx, l.Settle)
}

// undelivered reports whether an acknowledged event was not delivered yet.
func (l *load) undelivered() bool {
	if l.tally.unique.Load() < l.acked.Load() {
		return true
	}
	for i := range l.acks {
		if l.acks[i].at > 0 && l.tally.events[i].at.Load() == 0 {
			return true
		}
	}
	return false
}

// report calls OnProgress until stop is called.
func (l *load) report() (stop func()) {
	if l.OnProgress == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for sleep(ctx, time.Second/4) {
			l.OnProgress(l.progress())
		}
		l.OnProgress(l.progress())
	})
	return func() { cancel(); wg.Wait() }
}

func (l *load) progress() Progress {
	return Progress{
		Elapsed:   time.Since(l.tally.start),
		Events:    l.Events,
		Sent:      int(l.sent.Load()),
		Acked:     int(l.acked.Load()),
		Errors:    int(l.errors.Load()),
		Delivered: int(l.tally.unique.Load()),
	}
}

// result sums up the run; sending is how long sending took.
func (l *load) result(sending time.Duration) Result {
	r := Result{
		Sent:       int(l.sent.Load()),
		Acked:      int(l.acked.Load()),
		Errors:     int(l.errors.Load()),
		Status:     map[int]int{},
		Seconds:    sending.Seconds(),
		AckPerS:    perSecond(l.acked.Load(), sending),
		Delivered:  int(l.tally.unique.Load()),
		Duplicates: int(l.tally.repeated.Load()),
		Requests:   int(l.tally.requests.Load()),

		DeliveredPerS: perSecond(l.tally.unique.Load(), time.Duration(l.tally.last.Load())),
	}
	if err := l.firstErr.Load(); err != nil {
		r.FirstError = (*err).Error()
	}
	for code := range l.status {
		if n := l.status[code].Load(); n > 0 {
			r.Status[code] = int(n)
		}
	}
	acks, e2e, after := newHistogram(), newHistogram(), newHistogram()
	counts := l.Sink != nil && l.Sink.Mode() == OK
	for i, a := range l.acks {
		var sunk time.Duration
		if i < len(l.tally.events) {
			sunk = time.Duration(l.tally.events[i].at.Load())
		}
		switch {
		case a.at > 0 && sunk > 0:
			after.add(sunk - a.at)
		case a.at > 0 && counts:
			r.Lost++
		case sunk > 0 && a.at == 0:
			r.UnackedDelivered++
		}
		if a.at > 0 {
			acks.add(a.at - a.due)
		}
		if sunk > 0 {
			e2e.add(sunk - a.due)
		}
	}
	r.AckMS, r.E2EMS, r.AfterAckMS = acks.latency(), e2e.latency(), after.latency()
	return r
}

func perSecond(n int64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}
