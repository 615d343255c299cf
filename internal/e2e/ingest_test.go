package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
)

// post sends one webhook and returns the answer's status, code and event id.
func post(t *testing.T, url string, header map[string]string, body io.Reader) (status int, code, event string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Code    string `json:"code"`
		EventID string `json:"event_id"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatalf("the answer %d is not JSON: %v", resp.StatusCode, err)
	}
	return resp.StatusCode, answer.Code, answer.EventID
}

// arrived waits until the sink has had a request of an event.
func (w *world) arrived(event string) harness.SinkRequest {
	w.t.Helper()
	var got harness.SinkRequest
	eventually(w.t, "event "+event+" arrives", patience, func() bool {
		all := w.sink.Requests()
		i := slices.IndexFunc(all, func(r harness.SinkRequest) bool { return r.EventID == event })
		if i >= 0 {
			got = all[i]
		}
		return i >= 0
	})
	return got
}

// onlyReader hides a reader's length, so that it is sent in chunks.
type onlyReader struct{ io.Reader }

// TestBody_B48_AnyBytes checks that bodies of any bytes arrive unchanged, and a body one byte
// over the limit is refused and not stored, whether its length is announced or not.
func TestBody_B48_AnyBytes(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.sink.Record(true)
		ep := w.endpoint("bodies", nil)
		noise := make([]byte, 10<<20+1)
		rand.Read(noise)
		for name, body := range map[string][]byte{
			"empty":           {},
			"one byte":        {0},
			"NUL":             []byte("a\x00b\x00"),
			"invalid UTF-8":   {0xff, 0xfe, 0xc3, 0x28, 0xed, 0xa0, 0x80},
			"escaped NUL":     []byte(`{"a":"\u0000","b":"\ud800","n":1e400000}`),
			"unordered JSON":  []byte(`{ "b":1,  "a":1.10e1, "a":2 }`),
			"64 KiB":          noise[:64<<10],
			"just over 1 MiB": noise[:1<<20+1],
			"10 MiB":          noise[:10<<20],
		} {
			for _, chunked := range []bool{false, true} {
				var r io.Reader = bytes.NewReader(body)
				if chunked {
					r = onlyReader{r}
				}
				status, code, event := post(t, ep.IngestURL+"?a=1&b=%00", map[string]string{"Content-Type": "application/x-anything"}, r)
				if status != 200 {
					t.Errorf("%s (chunked %v): answered %d %s", name, chunked, status, code)
					continue
				}
				got := w.arrived(event)
				if got.SHA256 != sha256.Sum256(body) || got.Size != int64(len(body)) {
					t.Errorf("%s (chunked %v): %d bytes arrived, %d were sent, or others", name, chunked, got.Size, len(body))
				}
				if ct := got.Get("Content-Type"); ct != "application/x-anything" {
					t.Errorf("%s: content type %q", name, ct)
				}
			}
		}
		w.quiet()
		before := len(list[delivery](w, "/v1/deliveries", url.Values{}))
		for _, chunked := range []bool{false, true} {
			var r io.Reader = bytes.NewReader(noise)
			if chunked {
				r = onlyReader{r}
			}
			if status, code, _ := post(t, ep.IngestURL, nil, r); status != http.StatusRequestEntityTooLarge || code != "E1002" {
				t.Errorf("10 MiB + 1 byte (chunked %v): answered %d %s", chunked, status, code)
			}
		}
		if after := len(list[delivery](w, "/v1/deliveries", url.Values{})); after != before {
			t.Errorf("%d deliveries came of what was refused", after-before)
		}
	})
}

// TestBody_LargestSetting checks that 64 MiB arrive with the largest KAPSEL_MAX_BODY, and not one
// byte more.
func TestBody_LargestSetting(t *testing.T) {
	noise := make([]byte, 64<<20+1)
	rand.Read(noise)
	for _, store := range []string{"sqlite", "postgres"} {
		t.Run(store, func(t *testing.T) {
			database := ""
			if store == "postgres" {
				database = schematest.Postgres(t)
			}
			w := newWorld(t, database, "KAPSEL_MAX_BODY=64MiB")
			w.sink.Record(true)
			ep := w.endpoint("large", nil)
			for _, chunked := range []bool{false, true} {
				for _, body := range [][]byte{noise, noise[:64<<20]} {
					var r io.Reader = bytes.NewReader(body)
					if chunked {
						r = onlyReader{r}
					}
					status, code, event := post(t, ep.IngestURL, nil, r)
					if len(body) > 64<<20 {
						if status != http.StatusRequestEntityTooLarge || code != "E1002" {
							t.Errorf("%d bytes (chunked %v): answered %d %s", len(body), chunked, status, code)
						}
						continue
					}
					if status != 200 {
						t.Fatalf("%d bytes (chunked %v): answered %d %s", len(body), chunked, status, code)
					}
					if got := w.arrived(event); got.SHA256 != sha256.Sum256(body) || got.Size != int64(len(body)) {
						t.Errorf("%d bytes (chunked %v): %d arrived, or others", len(body), chunked, got.Size)
					}
				}
			}
		})
	}
}

// TestDestination_FD19_ClosesAfterReading checks that a request is never repeated in secret
// when the destination reads it and closes the connection. The bodies and headers are such
// that an HTTP client likes to send them again; no two requests have one attempt id, and each
// has its row.
func TestDestination_FD19_ClosesAfterReading(t *testing.T) {
	w := newWorld(t, "")
	w.sink.Record(true)
	w.sink.Script(func(r harness.SinkRequest) harness.Answer {
		if r.Attempt%3 == 0 {
			return harness.Answer{}
		}
		return harness.Answer{Reset: r.Attempt%3 == 1, Raw: " ", Close: true}
	})
	ep := w.endpoint("closing", gentle)
	for _, size := range []int{0, 1, 10_000} {
		for i := range count(10, 200) {
			header := map[string]string{"Idempotency-Key": fmt.Sprintf("k-%d-%d", size, i), "X-Idempotency-Key": fmt.Sprintf("x-%d-%d", size, i)}
			if status, code, _ := post(t, ep.IngestURL, header, strings.NewReader(strings.Repeat("b", size))); status != 200 {
				t.Fatalf("answered %d %s", status, code)
			}
		}
	}
	w.quiet()
	seen := map[string]bool{}
	perEvent := map[string]int{}
	for _, r := range w.sink.Requests() {
		if seen[r.AttemptID] {
			t.Errorf("attempt %s was sent twice", r.AttemptID)
		}
		seen[r.AttemptID] = true
		perEvent[r.EventID]++
	}
	for _, d := range list[delivery](w, "/v1/deliveries", url.Values{}) {
		if d.Attempts != perEvent[d.EventID] {
			t.Errorf("delivery %s has %d attempts and %d requests", d.ID, d.Attempts, perEvent[d.EventID])
		}
	}
}

// openssl makes an HMAC with an implementation that is not ours.
func openssl(t *testing.T, algorithm string, key, data []byte) []byte {
	t.Helper()
	cmd := exec.Command("openssl", "dgst", "-"+algorithm, "-mac", "HMAC", "-macopt", "hexkey:"+hex.EncodeToString(key), "-binary")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl: %v", err)
	}
	return out
}

// TestVerify_B71_OpenSSL checks that webhooks signed by OpenSSL at the time of the test are
// accepted, and refused after one flipped bit of body, signature or timestamp.
func TestVerify_B71_OpenSSL(t *testing.T) {
	type signed struct {
		header map[string]string
		// where the signature and the timestamp are, to flip a bit of them; "" for none
		signature, timestamp string
	}
	hexOf, b64Of := hex.EncodeToString, base64.StdEncoding.EncodeToString
	stamp := func() string { return strconv.FormatInt(time.Now().Unix(), 10) }
	whsec := func(key string) string { return "whsec_" + b64Of([]byte(key)) }
	for provider, c := range map[string]struct {
		secret string
		sign   func(t *testing.T, secret string, body []byte) signed
	}{
		"hmac": {"a generic secret", func(t *testing.T, secret string, body []byte) signed {
			mac := hexOf(openssl(t, "sha256", []byte(secret), body))
			return signed{map[string]string{"X-Webhook-Signature": mac}, mac, ""}
		}},
		"stripe": {"whsec_stripe_test_secret", func(t *testing.T, secret string, body []byte) signed {
			ts := stamp()
			mac := hexOf(openssl(t, "sha256", []byte(secret), append([]byte(ts+"."), body...)))
			return signed{map[string]string{"Stripe-Signature": "t=" + ts + ",v1=" + mac + ",v0=00"}, mac, ts}
		}},
		"github": {"It's a Secret to Everybody", func(t *testing.T, secret string, body []byte) signed {
			mac := hexOf(openssl(t, "sha256", []byte(secret), body))
			return signed{map[string]string{"X-Hub-Signature-256": "sha256=" + mac, "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"}, mac, ""}
		}},
		"shopify": {"hush", func(t *testing.T, secret string, body []byte) signed {
			mac := b64Of(openssl(t, "sha256", []byte(secret), body))
			return signed{map[string]string{"X-Shopify-Hmac-SHA256": mac}, mac, ""}
		}},
		"standard-webhooks": {whsec("0123456789abcdef0123456789abcdef"), func(t *testing.T, secret string, body []byte) signed {
			ts, id := stamp(), "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"
			key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
			if err != nil {
				t.Fatal(err)
			}
			mac := b64Of(openssl(t, "sha256", key, append([]byte(id+"."+ts+"."), body...)))
			return signed{map[string]string{"webhook-id": id, "webhook-timestamp": ts, "webhook-signature": "v1," + mac}, mac, ts}
		}},
	} {
		t.Run(provider, func(t *testing.T) {
			w := newWorld(t, "")
			w.sink.Record(true)
			ep := w.endpoint(provider, map[string]any{
				"verification": map[string]any{"provider": provider, "secrets": []string{whsec("an older secret, 24 bytes"), c.secret}},
				"idempotency":  map[string]any{"strategy": "none"},
			})
			body := []byte(`{"amount":100,"id":"evt_1"}`)
			flip := func(s string) string { return flipped(s, len(s)/2) }
			replaced := func(s signed, old, now string) map[string]string {
				h := map[string]string{}
				for k, v := range s.header {
					h[k] = strings.ReplaceAll(v, old, now)
				}
				return h
			}

			s := c.sign(t, c.secret, body)
			status, code, event := post(t, ep.IngestURL, s.header, bytes.NewReader(body))
			if status != 200 {
				t.Fatalf("a signed webhook was answered %d %s", status, code)
			}
			w.arrived(event)

			refused := func(what string, header map[string]string, body []byte) {
				t.Helper()
				if status, code, _ := post(t, ep.IngestURL, header, bytes.NewReader(body)); status != http.StatusUnauthorized || code != "E1001" {
					t.Errorf("%s: answered %d %s, not 401 E1001", what, status, code)
				}
			}
			altered := bytes.Clone(body)
			altered[10] ^= 1
			refused("a flipped bit of the body", s.header, altered)
			refused("a flipped bit of the signature", replaced(s, s.signature, flip(s.signature)), body)
			if s.timestamp != "" {
				refused("a flipped bit of the timestamp", replaced(s, s.timestamp, flipped(s.timestamp, len(s.timestamp)-1)), body)
			}
			refused("another secret", c.sign(t, whsec("another secret, 24 bytes."), body).header, body)
			refused("no signature", nil, body)
			w.quiet()
			if n := len(w.sink.Requests()); n != 1 {
				t.Errorf("%d requests arrived of one accepted webhook", n)
			}
		})
	}
}

// flipped changes one bit of the character at i so that it stays a character of the same
// alphabet: a digit becomes its neighbour.
func flipped(s string, i int) string {
	b := []byte(s)
	b[i] ^= 1
	if strings.ContainsAny(string(b[i]), "`@/:") || b[i] == 'g' && isHex(s) {
		b[i] ^= 3
	}
	return string(b)
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }
