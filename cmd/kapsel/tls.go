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

// certificate is a TLS certificate in two files. It is read again at SIGHUP, and when either
// has changed, at most once a second and when a client connects. Files that do not go together, as in the
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

// look returns the present state of the files; that of a file that cannot be seen is zero.
func (c *certificate) look() (s [2]stamp, err error) {
	c.looked = time.Now()
	var errs [2]error
	s[0], errs[0] = stampOf(c.certFile)
	s[1], errs[1] = stampOf(c.keyFile)
	return s, errors.Join(errs[:]...)
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
	if time.Since(c.looked) >= time.Second {
		if stamps, err := c.look(); stamps != c.stamps {
			c.again(stamps, err, slog.LevelWarn)
		}
	}
	return c.current, nil
}

// reload reads the files, whether they changed or not.
func (c *certificate) reload() {
	c.mu.Lock()
	defer c.mu.Unlock()
	stamps, err := c.look()
	c.again(stamps, err, slog.LevelError)
}

// again reads the files once more and logs how that went, a failure at the given level.
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

// config is the TLS of the service: 1.2 or later.
func (c *certificate) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}
}
