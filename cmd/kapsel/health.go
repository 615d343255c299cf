package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel/internal/egress"
	"github.com/kapsel-hq/kapsel/internal/telemetry"
)

// healthCmd lets a container check itself without a shell or curl.
type healthCmd struct {
	TLSCert string `name:"tls-cert" env:"KAPSEL_TLS_CERT" placeholder:"FILE" help:"The certificate that it serves HTTPS with (${env})."`
	Listen  string `env:"KAPSEL_LISTEN" default:"127.0.0.1:8080" help:"Address of the service (${env}, default ${default})."`
}

// Run asks /health/ready.
func (c *healthCmd) Run(ctx context.Context, io streams) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	scheme, reach := "http://", egress.Config{AllowAllPrivate: true}
	if c.TLSCert != "" {
		scheme = "https://"
		var err error
		if reach.RootCAs, reach.TLSName, err = ownName(c.TLSCert); err != nil {
			return settingError("KAPSEL_TLS_CERT (--tls-cert): %v", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+dialable(c.Listen)+"/health/ready", nil)
	if err != nil {
		return settingError("KAPSEL_LISTEN (--listen): %v", err)
	}
	resp, err := egress.NewClient(reach).Do(req)
	if err != nil {
		return fmt.Errorf("the service does not answer: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the service is not ready: status %d", resp.StatusCode)
	}
	telemetry.LastWords(io.out, "ready\n")
	return nil
}

// ownName returns a pool with only the certificate in a file, and a name that the certificate has. With both a
// TLS client accepts only a server with that certificate, whatever the server's address is.
func ownName(file string) (*x509.CertPool, string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, "", err
	}
	block, _ := pem.Decode(text) // the leaf is the first
	if block == nil {
		return nil, "", errors.New("the file holds no PEM block")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, "", err
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	switch {
	case len(leaf.DNSNames) > 0:
		return pool, strings.Replace(leaf.DNSNames[0], "*", "health", 1), nil
	case len(leaf.IPAddresses) > 0:
		return pool, leaf.IPAddresses[0].String(), nil
	}
	return nil, "", errors.New("the certificate has no name")
}
