package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificate is a TLS certificate in two files. It is read again when either has changed, at
// most once a second and when a client connects. Files that do not go together, as in the
// moment between writing one and the other, leave the certificate in use as it is.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex // of what follows
	current *tls.Certificate
	stamps  [2]stamp // of the files when they were last read
	looked  time.Time
}

// stamp tells one state of a file from another.
type stamp struct {
	modified time.Time
	size     int64
}

func stampOf(file string) (s stamp, err error) {
	info, err := os.Stat(file)
	if err == nil {
		s = stamp{info.ModTime(), info.Size()}
	}
	return s, err
}

// loadCertificate reads the files for the first time.
func loadCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log, looked: time.Now()}
	stamps, err := c.stampsNow()
	if err == nil {
		err = c.load(stamps)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (c *certificate) stampsNow() (s [2]stamp, err error) {
	if s[0], err = stampOf(c.certFile); err == nil {
		s[1], err = stampOf(c.keyFile)
	}
	return s, err
}

// load reads both files and remembers which state of them it read, so that a bad state is
// reported once.
func (c *certificate) load(stamps [2]stamp) error {
	c.stamps = stamps
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("load the certificate: %w", err)
	}
	c.current = &pair
	return nil
}

// get is the certificate for a connection.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.looked) >= time.Second {
		c.looked = now
		stamps, err := c.stampsNow()
		if err == nil && stamps != c.stamps {
			if err = c.load(stamps); err == nil {
				c.log.Info("the certificate was read again", "file", c.certFile)
			}
		}
		if err != nil {
			c.log.Warn("the certificate's files changed and cannot be used; the former stays in use", "error", err)
		}
	}
	return c.current, nil
}

// config is the TLS of the service: 1.2 or later.
func (c *certificate) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}
}
