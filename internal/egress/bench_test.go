package egress

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
)

// BenchmarkExchange sends bodies of 1 KiB to a destination in this process that does the least:
// it looks for the end of each request and writes the same answer. cpu-ns/op is the CPU time of
// both sides.
func BenchmarkExchange(b *testing.B) {
	for _, scheme := range []string{"http", "https"} {
		for _, atOnce := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/%d at once", scheme, atOnce), func(b *testing.B) {
				s := serve(b, scheme, answerLeanly)
				rt := s.client(b)
				body := bytes.Repeat([]byte{'x'}, 1024)
				b.ReportAllocs()
				before := cpuTime(b)
				b.ResetTimer()
				var running sync.WaitGroup
				for i := range atOnce {
					running.Go(func() {
						for range (b.N + i) / atOnce {
							if r := exchange(b.Context(), rt, s.URL, nil, body); r.status != 200 {
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

// answerLeanly answers each request on a connection, whose body is 1 KiB, with the same bytes.
func answerLeanly(_ int, conn net.Conn, r *bufio.Reader) {
	for {
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
}

// cpuTime returns the CPU time that this process has used.
func cpuTime(b *testing.B) int64 {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return used.Utime.Nano() + used.Stime.Nano()
}
