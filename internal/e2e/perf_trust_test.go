//go:build perf

package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/egress"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// sideChannels measures whether time tells an attacker what answers do not.
func sideChannels(t *testing.T) {
	t.Run("B-72 compares", compares)
	t.Run("B-72 keys", unknownKeys)
	t.Run("B-98 blocked", blockedTargets)
}

// interleave runs each function n times, in random order, and returns their times in ns,
// sorted. Interleaving gives each the same share of what else the machine does.
func interleave(n int, fs ...func()) [][]float64 {
	times := make([][]float64, len(fs))
	for range n {
		for _, i := range rand.Perm(len(fs)) {
			begin := time.Now()
			fs[i]()
			times[i] = append(times[i], float64(time.Since(begin)))
		}
	}
	for i := range times {
		slices.Sort(times[i])
	}
	return times
}

func median(sorted []float64) float64 { return sorted[len(sorted)/2] }

// welch is Welch's t of two samples. As dudect does, it leaves out the slowest tenth of each:
// interrupts, not comparisons.
func welch(a, b []float64) float64 {
	moments := func(x []float64) (mean, variance, n float64) {
		x = x[:len(x)*9/10]
		n = float64(len(x))
		for _, v := range x {
			mean += v / n
		}
		for _, v := range x {
			variance += (v - mean) * (v - mean) / (n - 1)
		}
		return mean, variance, n
	}
	ma, va, na := moments(a)
	mb, vb, nb := moments(b)
	return (ma - mb) / math.Sqrt(va/na+vb/nb)
}

// compares gives each comparison of a secret values that are wrong from an early byte on, and
// such that are wrong in a late one only: their times must not be told apart. There are many
// of each kind, so that where a value lies in memory is not what is measured.
func compares(t *testing.T) {
	const key, body, variants = "a secret of this measurement.....", `{"amount":100}`, 64
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(body))
	right := mac.Sum(nil)
	verify := func(provider, header string, encode func([]byte) string) func(wrong []byte) func() bool {
		v, err := signature.New(kapsel.Verification{Provider: provider}, []signature.Key{{ID: kapsel.NewSecretID(time.Now()), Value: []byte(key)}}, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		return func(wrong []byte) func() bool {
			r := signature.Request{Method: "POST", Header: http.Header{header: {encode(wrong)}}, Body: []byte(body)}
			return func() bool { _, err := v.Verify(r, time.Time{}); return err == nil }
		}
	}
	known := secret.NewText(key)
	for what, subject := range map[string]struct {
		right []byte
		try   func(wrong []byte) func() bool
	}{
		"signature":    {right, verify("hmac", "X-Webhook-Signature", hex.EncodeToString)},
		"secret token": {[]byte(key), verify("gitlab", "X-Gitlab-Token", func(b []byte) string { return string(b) })},
		"secret's text": {[]byte(key), func(wrong []byte) func() bool {
			guess := secret.NewText(string(wrong))
			return func() bool { return known.Equal(guess) }
		}},
	} {
		score := math.Inf(1)
		for range 3 { // what leaks does so each time, wherever the values lie and whatever else runs
			var tries [2][variants]func() bool
			for _, i := range rand.Perm(2 * variants) { // in any order, or the two kinds lie at different places of a cache line
				wrong := slices.Clone(subject.right)
				late := i % 2
				at := rand.IntN(8)
				if late == 1 {
					at = len(wrong) - 1 - at
				}
				wrong[at] ^= byte(1 + rand.IntN(15))
				tries[late][i/2] = subject.try(wrong)
			}
			class := func(late int) func() {
				return func() {
					if tries[late][rand.IntN(variants)]() {
						t.Errorf("a wrong %s was accepted", what)
					}
				}
			}
			interleave(1000, class(0), class(1)) // warm up
			times := interleave(50_000, class(0), class(1))
			score = min(score, math.Abs(welch(times[0], times[1])))
		}
		check(t, score < 4.5, "B-72, compare of a "+what+": Welch's |t| of 2 x 50,000, least of 3", fmt.Sprintf("%.2f", score), "< 4.5")
	}
}

// unknownKeys asks with an API key that does not exist and with one that was revoked.
func unknownKeys(t *testing.T) {
	w := newWorld(t, "", "KAPSEL_TRUSTED_PROXIES=127.0.0.1/32")
	var made struct{ ID, Secret string }
	node := w.nodes[0]
	keys := "/v1/tenants/" + w.tenant + "/keys"
	if err := node.API(w.ctx, http.MethodPost, keys, map[string]string{"name": "k", "scope": "read"}, &made); err != nil {
		t.Fatal(err)
	}
	if err := node.API(w.ctx, http.MethodDelete, keys+"/"+made.ID, nil, nil); err != nil {
		t.Fatal(err)
	}
	other, _, _ := secret.NewAPIKey()
	clients := 0 // from each come few wrong keys: more would be refused unseen
	ask := func(key string) func() {
		return func() {
			req, err := http.NewRequest(http.MethodGet, node.URL+"/v1/endpoints", nil)
			if err != nil {
				t.Fatal(err)
			}
			clients++
			req.Header.Set("X-Forwarded-For", fmt.Sprintf("10.0.%d.%d", clients>>8, clients&255))
			req.Header.Set("Authorization", "Bearer "+key)
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != 401 {
				t.Errorf("answered %d", resp.StatusCode)
			}
		}
	}
	interleave(100, ask(other.Reveal()), ask(made.Secret))
	times := interleave(2000, ask(other.Reveal()), ask(made.Secret))
	unknown, revoked := median(times[0]), median(times[1])
	step := math.Abs(unknown/revoked - 1)
	check(t, step < 0.05, "B-72, an unknown and a revoked API key: medians of 2,000 differ by",
		fmt.Sprintf("%.1f %% (%.0f us, %.0f us)", 100*step, unknown/1e3, revoked/1e3), "< 5 %")
}

// blockedTargets tries to reach blocked ports that are open, closed, and lead nowhere.
func blockedTargets(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	transport := egress.New(egress.Config{})
	targets := map[string]string{
		"open": listener.Addr().String(), "closed": closed.Addr().String(), "filtered": "10.255.255.1:80", "metadata": "169.254.169.254:80", "far port": "127.0.0.1:9",
	}
	var names []string
	var tries []func()
	for name, host := range targets {
		u := &url.URL{Scheme: "http", Host: host, Path: "/"}
		names = append(names, name)
		tries = append(tries, func() {
			resp, err := transport.RoundTrip(egress.NewRequest(t.Context(), u, http.Header{}, nil))
			if err == nil {
				resp.Body.Close()
			}
			if !egress.IsBlocked(err) {
				t.Errorf("%s: %v", host, err)
			}
		})
	}
	interleave(100, tries...)
	least, most := math.Inf(1), 0.0
	var saw []string
	for i, times := range interleave(2000, tries...) {
		m := median(times)
		least, most = min(least, m), max(most, m)
		saw = append(saw, fmt.Sprintf("%s %.1f us", names[i], m/1e3))
	}
	slices.Sort(saw)
	check(t, most/least-1 <= 0.2, "B-98, blocked targets: medians of 2,000 differ by", fmt.Sprintf("%.1f %% (%s)", 100*(most/least-1), strings.Join(saw, ", ")), "<= 20 %")
}
