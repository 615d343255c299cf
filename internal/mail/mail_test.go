package mail

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"mime"
	"mime/quotedprintable"
	"net"
	netmail "net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/egress"
)

// server starts a real SMTP server, aiosmtpd, and returns its address and the directory that it puts
// e-mails into.
func server(t *testing.T, args ...string) (address, inbox string) {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = free.Addr().String()
	free.Close()
	inbox = filepath.Join(t.TempDir(), "mail")
	cmd := exec.Command("/usr/bin/aiosmtpd", append(append([]string{"-n", "-l", address}, args...), "-c", "aiosmtpd.handlers.Mailbox", inbox)...)
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; scripts/tools installs it", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	dial := egress.NewStream(egress.Config{AllowAllPrivate: true})
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		conn, err := dial(t.Context(), address)
		if err == nil {
			conn.Close()
			return address, inbox
		}
		if time.Now().After(end) {
			t.Fatalf("the mail server does not listen: %v\n%s", err, &output)
		}
	}
}

// received returns the e-mails in an inbox.
func received(t *testing.T, inbox string) (all []*netmail.Message) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(inbox, "new", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		m, err := netmail.ReadMessage(strings.NewReader(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

// sender returns a sender to an address that is taken for one of another machine unless plain is set.
func sender(t *testing.T, address string, plain bool) *Sender {
	t.Helper()
	to, err := ParseServer("smtp://" + address)
	if err != nil || !to.Plain {
		t.Fatalf("%+v, %v", to, err)
	}
	to.Plain = plain
	return New(to, "kapsel@example.com", []string{"ops@example.com", "night@example.com"}, egress.NewStream(egress.Config{AllowAllPrivate: true}), slog.New(slog.DiscardHandler))
}

// TestSend checks that an e-mail reaches a real server over STARTTLS as it was meant, and that none is sent
// to a server whose certificate does not verify, or which offers no TLS.
func TestSend(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))

	secure, inbox := server(t, "--tlscert", certFile, "--tlskey", keyFile)
	s := sender(t, secure, false)
	if _, err := s.Send(t.Context(), nil, "no", "no"); err == nil || !strings.Contains(err.Error(), "STARTTLS") {
		t.Errorf("to a server whose certificate nobody signed: %v", err)
	}
	s.TLS = &tls.Config{RootCAs: roots}
	text := "Notice: endpoint Käufe 🛒\n.a line that begins with a dot\n" + strings.Repeat("long ", 100) + "\n"
	if _, err := s.Send(t.Context(), nil, "Kapsel: Käufe\r\nBcc: x@example.com", text); err != nil {
		t.Fatal(err)
	}
	got := received(t, inbox)
	if len(got) != 1 {
		t.Fatalf("%d e-mails", len(got))
	}
	subject, _ := new(mime.WordDecoder).DecodeHeader(got[0].Header.Get("Subject"))
	body, _ := io.ReadAll(quotedprintable.NewReader(got[0].Body))
	if subject != "Kapsel: Käufe  Bcc: x@example.com" || got[0].Header.Get("Bcc") != "" || got[0].Header.Get("To") != "ops@example.com, night@example.com" {
		t.Errorf("header %v", got[0].Header)
	}
	if got := strings.ReplaceAll(string(body), "\r\n", "\n"); strings.TrimRight(got, "\n") != strings.TrimRight(text, "\n") {
		t.Errorf("body %q, want %q", got, text)
	}

	plain, inbox := server(t)
	if _, err := sender(t, plain, false).Send(t.Context(), nil, "no", "no"); err == nil || !strings.Contains(err.Error(), "does not offer STARTTLS") {
		t.Errorf("to a server without TLS: %v", err)
	}
	if _, err := sender(t, plain, true).Send(t.Context(), nil, "yes", "yes"); err != nil {
		t.Errorf("on this machine: %v", err)
	}
	if got := received(t, inbox); len(got) != 1 {
		t.Errorf("%d e-mails", len(got))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Send(ctx, nil, "no", "no"); err == nil {
		t.Error("sent after the context ended")
	}
}

// TestParseServer checks which URLs name a server, and that no error has the password.
func TestParseServer(t *testing.T) {
	for text, want := range map[string]Server{
		"smtp://ops:p%40ss@mail.example.com": {Host: "mail.example.com", Port: "587", User: "ops", Password: "p@ss"},
		"smtps://mail.example.com:4650/":     {Host: "mail.example.com", Port: "4650", Implicit: true},
		"smtp://localhost:25":                {Host: "localhost", Port: "25", Plain: true},
		"smtp://[::1]":                       {Host: "::1", Port: "587", Plain: true},
	} {
		if got, err := ParseServer(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "mail.example.com:25", "http://ops:hunter2@mail.example.com", "smtp://ops:hunter2@", "smtp://ops:hunter2@a/b", "smtp://ops:hunter2@a?tls=off", "smtp://ops:hun%ter2@a"} {
		if _, err := ParseServer(text); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if got, err := ParseAddresses("Ops <ops@example.com>, night@example.com"); err != nil || strings.Join(got, " ") != "ops@example.com night@example.com" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := ParseAddresses("ops@example.com\r\nBcc: x"); err == nil {
		t.Error("a line end passes")
	}
}
