package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// certify makes a new key pair and a certificate of 127.0.0.1 for it, which the pool then trusts.
func certify(t *testing.T, cert, key string, pool *x509.CertPool) {
	t.Helper()
	fresh := cert + ".fresh"
	run(t, nil, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", fresh,
		"-subj", "/CN=kapsel", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2")
	pem, err := os.ReadFile(fresh)
	if err == nil {
		err = os.Rename(fresh, cert)
	}
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("certificate: %v", err)
	}
}

// TestTrust_S13_S14_HTTPS checks that HTTPS is served with TLS 1.2 or later, with a new
// certificate once its files change, with headers that keep browsers to HTTPS, and without any
// permission for other origins.
func TestTrust_S13_S14_HTTPS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	pool := x509.NewCertPool()
	certify(t, cert, key, pool)
	listen := freeAddr(t)
	cmd := exec.Command(program(t), "serve")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "KAPSEL_LISTEN="+listen, "KAPSEL_METRICS_LISTEN=", "KAPSEL_TLS_CERT="+cert, "KAPSEL_TLS_KEY="+key, "KAPSEL_DRAIN_DELAY=0s")
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := <-ended; err != nil {
			t.Errorf("the process ended with %v:\n%s", err, output.String())
		}
	})
	// get makes a connection of its own for each request.
	get := func(method, url string, most uint16) (*http.Response, error) {
		c := http.Client{Timeout: patience, Transport: &http.Transport{
			DisableKeepAlives: true, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS10, MaxVersion: most},
		}}
		req, err := http.NewRequest(method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", "https://elsewhere.example")
		req.Header.Set("Access-Control-Request-Method", "POST")
		resp, err := c.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		return resp, err
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		eventually(t, what, patience, ok)
	}
	base := "https://" + listen
	until("HTTPS is served", func() bool {
		resp, err := get("GET", base+"/health/live", 0)
		return err == nil && resp.StatusCode == 200
	})
	resp, err := get("GET", base+"/health/live", 0)
	if err != nil {
		t.Fatal(err)
	}
	if resp.ProtoMajor != 2 || resp.TLS.Version != tls.VersionTLS13 || resp.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("HTTP/%d, TLS %x, %v", resp.ProtoMajor, resp.TLS.Version, resp.Header)
	}
	if resp, err := get("GET", base+"/health/live", tls.VersionTLS12); err != nil || resp.TLS.Version != tls.VersionTLS12 {
		t.Errorf("with TLS 1.2: %v", err)
	}
	if _, err := get("GET", base+"/health/live", tls.VersionTLS11); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	if resp, err := get("GET", "http://"+listen+"/health/live", 0); err == nil && resp.StatusCode/100 == 2 {
		t.Error("HTTP is answered where HTTPS is served")
	}
	for _, path := range []string{"/v1/endpoints", "/v1/providers", "/openapi.json", "/docs", "/ingest/ep_01hf6b2z6ye0ar0000000000zz", "/health/ready", "/no"} {
		for _, method := range []string{"OPTIONS", "GET", "POST"} {
			resp, err := get(method, base+path, 0)
			if err != nil {
				t.Fatal(err)
			}
			for name := range resp.Header {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s %s: the answer has %s", method, path, name)
				}
			}
		}
	}
	serial := resp.TLS.PeerCertificates[0].SerialNumber
	certify(t, cert, key, pool)
	until("the new certificate is served", func() bool {
		resp, err := get("GET", base+"/health/live", 0)
		return err == nil && resp.TLS.PeerCertificates[0].SerialNumber.Cmp(serial) != 0
	})
}
