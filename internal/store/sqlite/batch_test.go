package sqlite

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"golang.org/x/sys/unix"
)

func BenchmarkBatch(b *testing.B) {
	for _, size := range []int{1, 10, 100, 200, 500} {
		for _, neps := range []int{1, 1000} {
			b.Run(fmt.Sprintf("size=%d/endpoints=%d", size, neps), func(b *testing.B) {
				s := openTest(b)
				s.Ping(context.Background())
				body := make([]byte, 1024)
				eps := make([]kapsel.EndpointID, neps)
				for i := range eps {
					eps[i] = kapsel.NewEndpointID(testTime)
				}
				accepts := make([]acceptCall, b.N)
				completes := make([]completeCall, b.N)
				now := time.Now()
				for i := range accepts {
					now = now.Add(100 * time.Microsecond)
					accepts[i] = acceptCall{s: s, in: acceptance(eps[i%neps], now, body)}
					completes[i] = completeCall{answer(b, accepts[i].in.Delivery, 200, now)}
				}
				run := func(n int, f func(i int) error) (pages int) {
					for i := 0; i < n; i += size {
						before := s.writer.c.written()
						err := s.writer.cold(context.Background(), func(c *conn) error {
							for j := i; j < min(n, i+size); j++ {
								if err := f(j); err != nil {
									return err
								}
							}
							return nil
						})
						if err != nil {
							b.Fatal(err)
						}
						pages += s.writer.c.written() - before
					}
					return pages
				}
				var u0, u1, u2 unix.Rusage
				b.ResetTimer()
				unix.Getrusage(0, &u0)
				p1 := run(b.N, func(i int) error { return accepts[i].write(s.writer.c) })
				unix.Getrusage(0, &u1)
				p2 := run(b.N, func(i int) error { return completes[i].write(s.writer.c) })
				unix.Getrusage(0, &u2)
				m := func(a, b unix.Timeval) float64 { return float64(b.Nano()-a.Nano()) / 1000 }
				n := float64(b.N)
				b.ReportMetric(m(u0.Utime, u1.Utime)/n, "acc-user-µs")
				b.ReportMetric(m(u0.Stime, u1.Stime)/n, "acc-sys-µs")
				b.ReportMetric(m(u1.Utime, u2.Utime)/n, "com-user-µs")
				b.ReportMetric(m(u1.Stime, u2.Stime)/n, "com-sys-µs")
				b.ReportMetric(float64(p1)/n, "acc-pages")
				b.ReportMetric(float64(p2)/n, "com-pages")
			})
		}
	}
}
