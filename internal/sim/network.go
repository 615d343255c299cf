package sim

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/egress"
)

// Network connects processes to destinations by host name, over net.Pipe. It has no addresses and
// no DNS.
type Network struct {
	mu    sync.Mutex // guards hosts and every destination
	hosts map[string]*Destination
	conns sync.WaitGroup
}

// Destination is one host. It keeps every request that reached it.
type Destination struct {
	net    *Network
	Host   string
	script func(*Request) Answer
	dial   func() DialFault
	log    []*Request
	open   int // number of requests being answered
	most   int // greatest value of open so far
}

// Request is a request that a destination has read to its end.
type Request struct {
	Destination *Destination
	N           int // number of the request at this destination: 1, 2, …
	At          time.Time
	Method      string
	URI         string
	Host        string
	Proto       string
	Header      http.Header
	Lines       []string // lines of the header, as received
	Body        []byte
	Attempt     kapsel.AttemptID
	Event       kapsel.EventID
	Number      int    // X-Kapsel-Delivery-Attempt
	From        string // name of the sending process
	Answered    int    // status that the sender has read; 0: none
}

// Answer says how a destination answers a request. The zero Answer closes the connection.
type Answer struct {
	After  time.Duration // delay before the answer
	Status int           // 0: close the connection without an answer
	Header http.Header
	Body   string
	Hang   bool           // never answer
	Raw    func(net.Conn) // writes the whole answer itself, after After; then the connection is closed
	Drop   bool           // close the connection after the answer, without announcing it
}

// DialFault says how connecting fails.
type DialFault int

// The faults of dialling.
const (
	Connects DialFault = iota
	Refuses
	Swallows // no reply until the dialler times out
	Unknown  // the name does not exist
	NoFiles  // the process has no free file descriptor
	NoPorts  // the machine has no free port for this destination
)

// NewNetwork returns an empty network.
func NewNetwork() *Network { return &Network{hosts: map[string]*Destination{}} }

// Destination creates the host, or gives it a new script.
func (n *Network) Destination(host string, script func(*Request) Answer) *Destination {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.hosts[host]
	if d == nil {
		d = &Destination{net: n, Host: host}
		n.hosts[host] = d
	}
	d.script = script
	return d
}

// Always returns a script that answers every request with a status.
func Always(status int) func(*Request) Answer {
	return func(*Request) Answer { return Answer{Status: status} }
}

// Script replaces the destination's script.
func (d *Destination) Script(script func(*Request) Answer) {
	d.net.mu.Lock()
	defer d.net.mu.Unlock()
	d.script = script
}

// Dial sets the function that decides how connecting to the destination goes.
func (d *Destination) Dial(f func() DialFault) {
	d.net.mu.Lock()
	defer d.net.mu.Unlock()
	d.dial = f
}

// URL returns a URL of the destination.
func (d *Destination) URL() string { return "http://" + d.Host + "/hook" }

// Requests returns copies of the requests that the destination has read, in their order.
func (d *Destination) Requests() []*Request {
	d.net.mu.Lock()
	defer d.net.mu.Unlock()
	return d.requests()
}

// requests copies the log. The caller must hold the network's mu.
func (d *Destination) requests() []*Request {
	all := make([]Request, len(d.log))
	list := make([]*Request, len(d.log))
	for i, r := range d.log {
		all[i] = *r
		list[i] = &all[i]
	}
	return list
}

// Count returns the number of requests that the destination has read.
func (d *Destination) Count() int {
	d.net.mu.Lock()
	defer d.net.mu.Unlock()
	return len(d.log)
}

// Open returns how many requests are being answered now, and the most at any time so far.
func (d *Destination) Open() (now, most int) {
	d.net.mu.Lock()
	defer d.net.mu.Unlock()
	return d.open, d.most
}

// Requests returns copies of all requests of all destinations.
func (n *Network) Requests() (all []*Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range n.hosts {
		all = append(all, d.requests()...)
	}
	return all
}

// Uplink connects one process to the network: the product's own transport, with dials that end
// here.
type Uplink struct {
	http.RoundTripper
	net  *Network
	name string

	dead  context.Context
	cut   context.CancelFunc
	mu    sync.Mutex // guards conns and files
	conns map[net.Conn]struct{}
	files int // limit of open connections; 0: none
}

// Uplink returns a new connection of a process to the network.
func (n *Network) Uplink(name string) *Uplink {
	u := &Uplink{net: n, name: name, conns: map[net.Conn]struct{}{}}
	u.dead, u.cut = context.WithCancel(context.Background())
	u.RoundTripper = egress.NewOver(u.dialContext)
	return u
}

// Files limits how many connections the process can have open at a time; 0: no limit.
func (u *Uplink) Files(n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.files = n
}

// end is the process's end of a connection.
type end struct {
	net.Conn
	of *Uplink
}

// Write fails once the process is dead, also on a connection that Cut has not closed yet.
func (e *end) Write(p []byte) (int, error) {
	if e.of.dead.Err() != nil {
		return 0, net.ErrClosed
	}
	return e.Conn.Write(p)
}

func (e *end) Close() error {
	e.of.mu.Lock()
	delete(e.of.conns, e)
	e.of.mu.Unlock()
	return e.Conn.Close()
}

// dialTimeout is the product's own timeout for connecting.
const dialTimeout = 10 * time.Second

func (u *Uplink) dialContext(ctx context.Context, network, address string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) { return nil, &net.OpError{Op: "dial", Net: network, Err: err} }
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fail(err)
	}
	u.net.mu.Lock()
	d := u.net.hosts[host]
	fault := Unknown
	if d != nil {
		fault = Connects
		if d.dial != nil {
			fault = d.dial()
		}
	}
	u.net.mu.Unlock()
	switch fault {
	case Unknown:
		return fail(&net.DNSError{Err: "no such host", Name: host, IsNotFound: true})
	case Refuses:
		return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	case NoFiles:
		return fail(os.NewSyscallError("socket", syscall.EMFILE))
	case NoPorts:
		return fail(os.NewSyscallError("connect", syscall.EADDRNOTAVAIL))
	case Swallows:
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		select {
		case <-ctx.Done():
			return fail(ctx.Err())
		case <-u.dead.Done():
			return fail(u.dead.Err())
		}
	}
	near, far := net.Pipe()
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.dead.Err() != nil:
		return fail(os.NewSyscallError("connect", syscall.ENETUNREACH))
	case u.files > 0 && len(u.conns) >= u.files:
		return fail(os.NewSyscallError("socket", syscall.EMFILE))
	}
	ours := &end{near, u}
	u.conns[ours] = struct{}{}
	u.net.conns.Go(func() { d.serve(far, u.name) })
	return ours, nil
}

// Cut closes all connections and makes new ones fail, as if the process were dead. A request whose
// sending has not begun when Cut is called reaches no destination.
func (u *Uplink) Cut() {
	u.mu.Lock()
	u.cut()
	open := slices.Collect(maps.Keys(u.conns))
	u.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
	u.RoundTripper.(interface{ CloseIdleConnections() }).CloseIdleConnections()
}

// serve answers the requests of one connection.
func (d *Destination) serve(conn net.Conn, from string) {
	defer conn.Close()
	tap := &tap{r: conn}
	br := bufio.NewReader(tap)
	for {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		r := d.note(req, body, tap.lines(), from)
		tap.seen.Reset() // bytes read while answering belong to the next request
		if done := d.answer(conn, br, r); done {
			return
		}
	}
}

// note adds a request to the log.
func (d *Destination) note(req *http.Request, body []byte, lines []string, from string) *Request {
	r := &Request{
		Destination: d, At: time.Now(), Method: req.Method, URI: req.RequestURI, Host: req.Host, Proto: req.Proto,
		Header: req.Header, Lines: lines, Body: body, From: from,
	}
	r.Attempt, _ = kapsel.ParseAttemptID(req.Header.Get("X-Kapsel-Attempt-Id"))
	r.Event, _ = kapsel.ParseEventID(req.Header.Get("X-Kapsel-Event-Id"))
	r.Number, _ = strconv.Atoi(req.Header.Get("X-Kapsel-Delivery-Attempt"))
	d.net.mu.Lock()
	defer d.net.mu.Unlock()
	d.log = append(d.log, r)
	r.N = len(d.log)
	d.open++
	d.most = max(d.most, d.open)
	return r
}

// answer answers a request as the script says, and reports whether the connection is finished.
func (d *Destination) answer(conn net.Conn, br *bufio.Reader, r *Request) (done bool) {
	d.net.mu.Lock()
	script := d.script
	d.net.mu.Unlock()
	ended := sync.OnceFunc(func() {
		d.net.mu.Lock()
		d.open--
		d.net.mu.Unlock()
	})
	defer ended()
	a := script(r)

	more := make(chan error, 1) // nil at the first byte of the next request, else the connection's error
	d.net.conns.Go(func() { _, err := br.Peek(1); more <- err })
	if a.Hang {
		<-more
		return true
	}
	if a.After > 0 {
		select {
		case <-more: // the sender gave up
			return true
		case <-time.After(a.After):
		}
	}
	switch {
	case a.Raw != nil:
		a.Raw(conn)
		return true
	case a.Status == 0:
		return true
	}
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", a.Status, http.StatusText(a.Status))
	for name, values := range a.Header {
		for _, v := range values {
			fmt.Fprintf(&b, "%s: %s\r\n", name, v)
		}
	}
	if a.Status == http.StatusNoContent || a.Status == http.StatusNotModified {
		a.Body = ""
	} else {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(a.Body))
	}
	b.WriteString("\r\n")
	b.WriteString(a.Body)
	if _, err := io.WriteString(conn, b.String()); err != nil {
		return true
	}
	d.net.mu.Lock()
	r.Answered = a.Status
	d.net.mu.Unlock()
	if a.Drop {
		return true
	}
	ended()
	return <-more != nil
}

// tap keeps the bytes read of the current request.
type tap struct {
	r    io.Reader
	seen strings.Builder
}

func (t *tap) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if t.seen.Len() < 1<<20 {
		t.seen.Write(p[:n])
	}
	return n, err
}

// lines returns the lines of the header, without the request line.
func (t *tap) lines() []string {
	head, _, _ := strings.Cut(t.seen.String(), "\r\n\r\n")
	_, fields, _ := strings.Cut(head, "\r\n")
	return strings.Split(fields, "\r\n")
}
