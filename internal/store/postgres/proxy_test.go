package postgres_test

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// proxy stands between a store and its server. Cut makes the next message that the store
// sends reach the server, whose answer is lost with the connection.
type proxy struct {
	url      string
	listener net.Listener

	mu     sync.Mutex
	cut    func()     // guarded by mu; what to do at the next statement; nil: pass it on
	conns  []net.Conn // of the store; guarded by mu
	closed bool       // guarded by mu
	silent bool       // guarded by mu; new connections get no answer
	wait   sync.WaitGroup
}

// before returns a URL whose first server is the proxy, and whose second is that of a test's URL. Each has
// 7 s for a connection, longer than any call waits.
func (p *proxy) before(url string) string {
	return strings.NewReplacer("@", "@"+p.listener.Addr().String()+",", "connect_timeout=10", "connect_timeout=7").Replace(url)
}

// newProxy makes a proxy for the database of a URL.
func newProxy(t testing.TB, url string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	scheme, rest, _ := strings.Cut(url, "@")
	server, path, _ := strings.Cut(rest, "/")
	p := &proxy{url: scheme + "@" + l.Addr().String() + "/" + path, listener: l}
	p.wait.Go(func() { p.accept(server) })
	t.Cleanup(func() {
		p.stop()
		p.wait.Wait()
	})
	return p
}

func (p *proxy) accept(server string) {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		silent := p.silent
		if silent {
			p.conns = append(p.conns, client)
		}
		p.mu.Unlock()
		if silent {
			continue
		}
		upstream, err := net.Dial("tcp", server)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		if p.closed {
			client.Close()
		}
		p.conns = append(p.conns, client)
		p.mu.Unlock()
		p.wait.Go(func() { p.forward(upstream, client) })
		p.wait.Go(func() {
			_, _ = io.Copy(client, upstream)
			client.Close()
		})
	}
}

// forward copies what the store sends. A batch ends with a Sync, the five bytes S 0 0 0 4.
func (p *proxy) forward(upstream, client net.Conn) {
	defer upstream.Close()
	buf := make([]byte, 1<<20)
	for {
		n, err := client.Read(buf)
		if n > 0 {
			p.mu.Lock()
			cut := p.cut
			if cut != nil && n >= 5 && string(buf[n-5:n]) == "S\x00\x00\x00\x04" {
				p.cut = nil
			} else {
				cut = nil
			}
			p.mu.Unlock()
			if cut != nil {
				cut()
				client.Close() // before the server can answer
			}
			if _, err := upstream.Write(buf[:n]); err != nil || cut != nil {
				return
			}
		}
		if err != nil {
			client.Close()
			return
		}
	}
}

// cutNext loses the answer to the next batch: then runs before the server gets it.
func (p *proxy) cutNext(then func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = then
}

// silence ends all connections and gives new ones no answer.
func (p *proxy) silence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = true
	for _, c := range p.conns {
		c.Close()
	}
}

// stop refuses new connections and ends those there are.
func (p *proxy) stop() {
	p.listener.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.conns {
		c.Close()
	}
}
