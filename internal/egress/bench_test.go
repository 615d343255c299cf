package egress

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"syscall"
	"testing"
	"time"
)

// BenchmarkExchange sends bodies of 1 KiB to a destination in this process that does the least:
// it looks for the end of each request and writes the same answer. cpu-ns/op is the CPU time of
// both sides.
func BenchmarkExchange(b *testing.B) {
	ca := newAuthority(b)
	cfg := loopback
	cfg.RootCAs = x509.NewCertPool()
	cfg.RootCAs.AddCert(ca.cert)
	config := &tls.Config{Certificates: []tls.Certificate{ca.leaf(b, -time.Hour, time.Hour, "127.0.0.1")}}
	for _, scheme := range []string{"http", "https"} {
		for _, atOnce := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/%d at once", scheme, atOnce), func(b *testing.B) {
				u := leanSink(b, scheme, config)
				rt := client(b, cfg)
				body := bytes.Repeat([]byte{'x'}, 1024)
				b.ReportAllocs()
				before := cpuTime(b)
				b.ResetTimer()
				var running sync.WaitGroup
				for i := range atOnce {
					running.Go(func() {
						for range (b.N + i) / atOnce {
							if r := exchange(b.Context(), rt, u, nil, body); r.status != 200 {
								b.Error(r)
								return
							}
						}
					})
				}
				running.Wait()
				b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// leanSink answers each request on a connection, whose body is 1 KiB of x, with the same bytes.
func leanSink(b *testing.B, scheme string, config *tls.Config) *url.URL {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if scheme == "https" {
				conn = tls.Server(conn, config)
			}
			serving.Go(func() {
				defer conn.Close()
				for r := bufio.NewReader(conn); ; {
					for header := true; header; { // up to the empty line
						line, err := r.ReadSlice('\n')
						if err != nil {
							return
						}
						header = len(line) > 2
					}
					if _, err := r.Discard(1024); err != nil {
						return
					}
					if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
						return
					}
				}
			})
		}
	})
	b.Cleanup(func() { l.Close(); serving.Wait() })
	return &url.URL{Scheme: scheme, Host: l.Addr().String(), Path: "/hook"}
}

// cpuTime is the CPU time that this process has used.
func cpuTime(b *testing.B) int64 {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return used.Utime.Nano() + used.Stime.Nano()
}
