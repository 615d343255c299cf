package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificate is a TLS certificate in two files. It is read again at SIGHUP, and when a client connects after
// one of the files has changed, at most once a second. If the files do not match, as between the writing of
// one and the other, the former certificate stays in use.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex // guards what follows
	current *tls.Certificate
	stamps  [2]stamp  // of the files when they were last read
	looked  time.Time // when the stamps were last checked
}

// stamp identifies a state of a file.
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
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	stamps, err := c.look()
	if err == nil {
		err = c.load(stamps)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// look returns the present stamps of the files, and zero and an error for a file that cannot be examined.
func (c *certificate) look() (s [2]stamp, err error) {
	c.looked = time.Now()
	var errs [2]error
	s[0], errs[0] = stampOf(c.certFile)
	s[1], errs[1] = stampOf(c.keyFile)
	return s, errors.Join(errs[:]...)
}

// load reads both files and remembers their stamps, so that files that cannot be used are reported once.
func (c *certificate) load(stamps [2]stamp) error {
	c.stamps = stamps
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("load the certificate: %w", err)
	}
	c.current = &pair
	return nil
}

// get returns the certificate for a connection.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) >= time.Second {
		if stamps, err := c.look(); stamps != c.stamps {
			c.again(stamps, err, slog.LevelWarn)
		}
	}
	return c.current, nil
}

// reload reads the files whether they have changed or not.
func (c *certificate) reload() {
	c.mu.Lock()
	defer c.mu.Unlock()
	stamps, err := c.look()
	c.again(stamps, err, slog.LevelError)
}

// again reads the files and logs the result, a failure at the given level.
func (c *certificate) again(stamps [2]stamp, err error, level slog.Level) {
	c.stamps = stamps
	if err == nil {
		err = c.load(stamps)
	}
	if err != nil {
		c.log.Log(context.Background(), level, "the certificate's files cannot be used; the former certificate stays in use", "error", err)
		return
	}
	c.log.Info("the certificate was read again", "file", c.certFile)
}

// config returns the service's TLS configuration.
func (c *certificate) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}
}
