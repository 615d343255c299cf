package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sync/singleflight"
)

const (
	// lookupTimeout bounds the lookup of a name.
	lookupTimeout = 5 * time.Second
	// queryTimeout bounds one query to one name server, so that there is time to ask another.
	queryTimeout = 2 * time.Second
	// familyGrace is how long to wait for the addresses of one family once those of the other have
	// arrived (RFC 8305, 3): some name servers never answer AAAA queries.
	familyGrace = 250 * time.Millisecond
)

// resolver looks up names with Go's own resolver, because the system's accepts 127.1 and
// 0x7f000001 as addresses. It records the errors of connections to name servers itself, since
// net.DNSError keeps only their text.
type resolver struct {
	net     net.Resolver
	timeout time.Duration
	flights singleflight.Group // shares lookups; net.Resolver would too, but under the first caller's context
}

func newResolver() *resolver {
	var d net.Dialer
	return resolverOver(d.DialContext)
}

// resolverOver returns a resolver that connects to name servers with dial.
func resolverOver(dial func(ctx context.Context, network, address string) (net.Conn, error)) *resolver {
	r := &resolver{timeout: lookupTimeout}
	r.net = net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		l, _ := ctx.Value(lookupKey{}).(*lookup)
		if l == nil { // the lookup has ended
			return conn, err
		}
		if err != nil {
			l.note(err)
			return nil, err
		}
		return l.query(conn), nil
	}}
	return r
}

// lookup returns the addresses of a host, which may itself be an address. The error is a
// net.DNSError, a Shortage, or the context's.
func (r *resolver) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}, nil
	}
	// Go's resolver treats files that it cannot open as missing, and would then ask a name server on
	// this machine.
	if err := reserve(); err != nil {
		return nil, err
	}
	found := r.flights.DoChan(host, func() (any, error) {
		l := &lookup{open: map[*query]struct{}{}, answered: map[string]answer{}}
		ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), lookupKey{}, l), r.timeout)
		defer cancel()
		addrs, err := r.net.LookupNetIP(ctx, "ip", host)
		for i := range addrs {
			addrs[i] = addrs[i].Unmap()
		}
		if short := l.shortage(); err != nil && short != nil && !(short.Ports && isNotFound(err)) {
			return nil, short // unless another name server said that the name does not exist
		}
		if err == nil && len(addrs) == 0 {
			err = &net.DNSError{Err: "no addresses", Name: host, IsNotFound: true}
		}
		return addrs, err
	})
	select {
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, ctx.Err()
		}
		return nil, &net.DNSError{Err: "the exchange's time is over", Name: host, IsTimeout: true}
	case f := <-found:
		addrs, _ := f.Val.([]netip.Addr)
		return addrs, f.Err
	}
}

func isNotFound(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}

// lookupKey is the key of a context's lookup.
type lookupKey struct{}

// lookup is the state of one lookup under way.
type lookup struct {
	mu       sync.Mutex
	short    *Shortage
	open     map[*query]struct{}
	answered map[string]answer // by name
}

// answer is the type and arrival time of a DNS answer that held addresses.
type answer struct {
	kind dnsmessage.Type
	at   time.Time
}

// note records err if it is a shortage.
func (l *lookup) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := shortageOf(err); s != nil {
		l.short = s
	}
}

func (l *lookup) shortage() *Shortage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.short
}

// query wraps a connection on which one query will be sent.
func (l *lookup) query(conn net.Conn) net.Conn {
	q := &query{Conn: conn, lookup: l, until: time.Now().Add(queryTimeout)}
	l.mu.Lock()
	l.open[q] = struct{}{}
	l.mu.Unlock()
	if packets, ok := conn.(net.PacketConn); ok { // Go's resolver asks for it
		return &packetQuery{query: q, packets: packets}
	}
	q.stream = true
	return q
}

// query is a connection to a name server. It times out if the query is not answered within
// queryTimeout, or within familyGrace after the same query for the other family was answered.
type query struct {
	net.Conn
	lookup *lookup
	stream bool // TCP: each message is preceded by its length
	until  time.Time

	// Guarded by lookup.mu.
	name string
	kind dnsmessage.Type
}

func (q *query) SetDeadline(t time.Time) error {
	if t.After(q.until) {
		t = q.until
	}
	return q.Conn.SetDeadline(t)
}

func (q *query) Write(p []byte) (int, error) {
	if _, asked, _, ok := q.parse(p); ok {
		l := q.lookup
		l.mu.Lock()
		q.name, q.kind = strings.ToLower(asked.Name.String()), asked.Type
		if a, ok := l.answered[q.name]; ok && a.kind != q.kind {
			q.shorten(a.at)
		}
		l.mu.Unlock()
	}
	n, err := q.Conn.Write(p)
	if err != nil {
		q.lookup.note(err)
	}
	return n, err
}

func (q *query) Read(p []byte) (int, error) {
	n, err := q.Conn.Read(p)
	if err != nil {
		q.lookup.note(err)
		return n, err
	}
	if asked, holds := q.answers(p[:n]); holds {
		name, now := strings.ToLower(asked.Name.String()), time.Now()
		l := q.lookup
		l.mu.Lock()
		defer l.mu.Unlock()
		l.answered[name] = answer{asked.Type, now}
		for other := range l.open {
			if other.name == name && other.kind != asked.Type {
				other.shorten(now)
			}
		}
	}
	return n, err
}

func (q *query) Close() error {
	q.lookup.mu.Lock()
	delete(q.lookup.open, q)
	q.lookup.mu.Unlock()
	return q.Conn.Close()
}

// shorten sets the deadline to familyGrace after the other family was answered.
func (q *query) shorten(answered time.Time) { _ = q.Conn.SetReadDeadline(answered.Add(familyGrace)) }

// parse parses a message's header and question, and leaves the parser at the answers.
func (q *query) parse(p []byte) (dnsmessage.Parser, dnsmessage.Question, dnsmessage.Header, bool) {
	var parser dnsmessage.Parser
	if q.stream && len(p) > 2 && int(p[0])<<8|int(p[1]) == len(p)-2 {
		p = p[2:]
	}
	header, err := parser.Start(p)
	if err != nil {
		return parser, dnsmessage.Question{}, header, false
	}
	asked, err := parser.Question()
	if err != nil || parser.SkipAllQuestions() != nil {
		return parser, asked, header, false
	}
	return parser, asked, header, true
}

// answers returns a message's question, and whether the message is a complete answer that holds
// addresses.
func (q *query) answers(p []byte) (dnsmessage.Question, bool) {
	parser, asked, header, ok := q.parse(p)
	if !ok || !header.Response || header.Truncated || header.RCode != dnsmessage.RCodeSuccess {
		return asked, false
	}
	for {
		record, err := parser.AnswerHeader()
		if err != nil {
			return asked, false
		}
		if record.Type == asked.Type {
			return asked, true
		}
		if parser.SkipAnswer() != nil {
			return asked, false
		}
	}
}

// packetQuery is a query over UDP.
type packetQuery struct {
	*query
	packets net.PacketConn
}

func (q *packetQuery) ReadFrom(p []byte) (int, net.Addr, error)  { return q.packets.ReadFrom(p) }
func (q *packetQuery) WriteTo(p []byte, a net.Addr) (int, error) { return q.packets.WriteTo(p, a) }
