package ingest_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"hash/crc32"
	"math/big"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/sim"
)

// retrying is a provider whose retries keep what it signed at first.
type retrying struct {
	provider, secret string
	schedule         []time.Duration                                              // between attempts, as the provider has it
	window           time.Duration                                                // how long ago it may have been signed
	sign             func(at time.Time, id string) (body string, header []string) // id is of the attempt, and not signed
}

// TestRetrySchedules plays every retry of providers that do not sign anew, each after an outage
// of all attempts before it, while the process is down between them: they are one event. The
// same content under another unsigned id is a duplicate for as long as it is accepted at all.
func TestRetrySchedules(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	const secret = "a secret"
	var paypal []time.Duration // up to 25 times in 3 days
	for range 25 {
		paypal = append(paypal, 72*time.Hour/25)
	}
	for _, p := range []retrying{
		{"linear", secret, []time.Duration{time.Minute, time.Hour, 6 * time.Hour}, 9 * time.Hour, func(at time.Time, id string) (string, []string) {
			body := fmt.Sprintf(`{"action":"create","webhookTimestamp":%d}`, at.UnixMilli())
			return body, []string{"Linear-Signature", sign(secret, body), "Linear-Delivery", id}
		}},
		{"mailgun", secret, []time.Duration{
			10 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour,
		}, 12 * time.Hour, func(at time.Time, id string) (string, []string) {
			stamp := fmt.Sprint(at.Unix())
			return fmt.Sprintf(`{"signature":{"timestamp":"%s","token":"tok","signature":"%s"},"event-data":{}}`, stamp, sign(secret, stamp+"tok")), []string{"Idempotency-Key", id}
		}},
		{"paypal", "WH-1\n" + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})), paypal, 96 * time.Hour, func(at time.Time, id string) (string, []string) {
			const body = `{"id":"WH-event"}`
			stamp := at.UTC().Format(time.RFC3339)
			sum := sha256.Sum256(fmt.Appendf(nil, "tr-1|%s|WH-1|%d", stamp, crc32.ChecksumIEEE([]byte(body))))
			signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
			if err != nil {
				t.Fatal(err)
			}
			return body, []string{"Paypal-Transmission-Id", "tr-1", "Paypal-Transmission-Time", stamp, "Paypal-Auth-Algo", "SHA256withRSA",
				"Paypal-Transmission-Sig", base64.StdEncoding.EncodeToString(signature), "Idempotency-Key", id}
		}},
	} {
		t.Run(p.provider, func(t *testing.T) {
			for missed := range len(p.schedule) + 1 {
				if n := len(p.schedule); missed > 3 && missed < n-1 {
					continue // the first and the last of many
				}
				synctest.Test(t, func(t *testing.T) { p.play(t, missed) })
			}
		})
	}
}

// play sends all attempts but the first missed ones, and then the same content under other ids.
func (p retrying) play(t *testing.T, missed int) {
	w := sim.New(t, sim.Options{})
	d := w.Net.Destination("shop.example", sim.Always(200))
	ep := w.NewEndpoint(d, func(ep *kapsel.Endpoint) {
		ep.Verification = kapsel.Verification{Provider: p.provider, Secrets: []kapsel.Secret{w.Seal(ep, p.secret)}}
	})
	at := time.Now().Truncate(time.Second)
	var first kapsel.EventID
	post := func(id string) (int, kapsel.EventID) {
		process := w.Start()
		defer process.Stop()
		body, header := p.sign(at, id)
		return process.Post(ep, body, header...)
	}
	for i, wait := range append([]time.Duration{0}, p.schedule...) {
		time.Sleep(wait)
		if i < missed {
			continue
		}
		status, id := post("the first")
		if first == (kapsel.EventID{}) {
			first = id
		}
		if status != 200 || id != first {
			t.Fatalf("missed %d: attempt %d is answered %d, event %v, was %v", missed, i+1, status, id, first)
		}
	}
	for time.Since(at) < p.window-2*time.Minute {
		time.Sleep(min(p.window/4, p.window-time.Minute-time.Since(at)))
		if status, id := post(fmt.Sprint("another, ", time.Since(at))); status != 200 || id != first {
			t.Fatalf("the same content after %s is answered %d, event %v, was %v", time.Since(at), status, id, first)
		}
	}
	time.Sleep(2 * time.Minute)
	if status, _ := post("late"); status != 401 {
		t.Errorf("signed more than %s ago: answered %d", p.window, status)
	}
	if n := len(d.Requests()); n != 1 {
		t.Errorf("%d requests were delivered, want 1", n)
	}
}
