package kapsel_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
)

func TestBucketOf(t *testing.T) {
	for _, tt := range []struct {
		took time.Duration
		want int
	}{
		{-time.Second, 0}, {0, 0}, {time.Millisecond, 0}, {time.Millisecond + 1, 1}, {2 * time.Millisecond, 1},
		{2*time.Millisecond + 1, 2}, {3 * time.Millisecond, 2}, {4 * time.Millisecond, 2}, {4*time.Millisecond + 1, 3},
		{time.Second, 10}, {262144 * time.Millisecond, 18}, {262144*time.Millisecond + 1, 19}, {24 * time.Hour, 19},
	} {
		if got := kapsel.BucketOf(tt.took); got != tt.want {
			t.Errorf("%v is in bucket %d, want %d", tt.took, got, tt.want)
		}
	}
}

func TestQuantile_IsInTheBucketOfTheTrueOne(t *testing.T) {
	if d, ok := new(kapsel.Histogram).Quantile(0.5); ok {
		t.Errorf("of nothing: %v", d)
	}
	rapid.Check(t, func(t *rapid.T) {
		took := rapid.SliceOfN(rapid.Int64Range(1, int64(6*time.Minute)), 1, 200).Draw(t, "took")
		var h kapsel.Histogram
		for _, d := range took {
			h[kapsel.BucketOf(time.Duration(d))]++
		}
		slices.Sort(took)
		last := time.Duration(0)
		for _, q := range []float64{0.5, 0.95, 0.99, 1} {
			got, ok := h.Quantile(q)
			n := float64(len(took)) * q
			i := int(n)
			if float64(i) < n {
				i++
			}
			want := time.Duration(took[i-1]) // the smallest that a share q does not exceed
			if !ok || kapsel.BucketOf(got) != kapsel.BucketOf(want) || got < last {
				t.Fatalf("q %v is %v, after %v; the true one is %v", q, got, last, want)
			}
			last = got
		}
	})
}

func TestStats_CountEachOnce(t *testing.T) {
	var s, sum kapsel.Stats
	codes := []kapsel.Code{"", kapsel.HTTPClientError, kapsel.HTTPServerError, kapsel.ConnectionTimeout, kapsel.ConnectionRefused, kapsel.TLSError, kapsel.DNSError, kapsel.BadResponse, kapsel.DialBlocked, kapsel.OutcomeUnknown}
	for _, c := range codes {
		s.AddAttempt(c, 3*time.Millisecond)
	}
	for to := kapsel.Pending; to <= kapsel.Canceled; to++ {
		s.AddEnd(to)
	}
	want := kapsel.Stats{Outcomes: [kapsel.OutcomeCount]int64{1, 1, 1, 1, 5, 1}, Ended: [kapsel.EndedCount]int64{1, 1, 1, 1}, Latency: kapsel.Histogram{2: 4}}
	if s != want || s.Attempts() != int64(len(codes)) {
		t.Errorf("counted %+v, want %+v", s, want)
	}
	sum.Add(&s)
	sum.Add(&s)
	if sum.Attempts() != 2*s.Attempts() || sum.Ended[0] != 2 || sum.Latency[2] != 8 {
		t.Errorf("twice is %+v", sum)
	}
}

func TestUsage(t *testing.T) {
	var u kapsel.Usage
	for to := kapsel.Pending; to <= kapsel.Canceled; to++ {
		u.AddEnd(to)
	}
	u.Add(kapsel.Usage{Events: 1, Bytes: 2, Attempts: 3, Deliveries: 4, Delivered: 5})
	if want := (kapsel.Usage{Events: 1, Bytes: 2, Attempts: 3, Deliveries: 8, Delivered: 6}); u != want {
		t.Errorf("counted %+v, want %+v", u, want)
	}
	east := time.FixedZone("", 5*3600)
	for _, tt := range []struct{ at, first, next time.Time }{
		{time.Date(2027, 1, 1, 4, 59, 0, 0, east), time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)},
		{time.Date(2028, 2, 29, 23, 0, 0, 0, time.UTC), time.Date(2028, 2, 1, 0, 0, 0, 0, time.UTC), time.Date(2028, 3, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if first, next := kapsel.UsageMonth(tt.at); !first.Equal(tt.first) || !next.Equal(tt.next) {
			t.Errorf("%v is in the month from %v to %v", tt.at, first, next)
		}
	}
}
