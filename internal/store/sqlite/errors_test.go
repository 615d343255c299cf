package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// A schema that somebody changed is not answered with "try again", and is found before the
// next event comes.
func TestLasting_AColumnIsMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kapsel.db")
	var log bytes.Buffer
	s, err := Open(t.Context(), path, Options{Migrate: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	change := func(sql string) {
		t.Helper()
		if err := s.writer.alone(func(c *conn) error { return c.script(sql) }); err != nil {
			t.Fatal(err)
		}
	}
	for table, column := range map[string]string{"events": "body", "deliveries": "size", "tenant_usage": "bytes", "idempotency_keys": "expires_at"} {
		change(fmt.Sprintf("ALTER TABLE %s RENAME COLUMN %s TO gone", table, column))
		err := s.Ping(t.Context())
		var e *kapsel.Error
		if !errors.As(err, &e) || e.Code != kapsel.DatabaseUnavailable || !strings.Contains(e.Detail, "schema") || strings.Contains(e.Detail, "does not answer") {
			t.Errorf("%s: ping: %v", table, err)
		}
		in := store.Rehearsal()
		if _, err := s.Accept(t.Context(), in); store.Passes(err) || kapsel.CodeOf(err) != kapsel.DatabaseUnavailable {
			t.Errorf("%s: accept: %v", table, err)
		}
		change(fmt.Sprintf("ALTER TABLE %s RENAME COLUMN gone TO %s", table, column))
		if err := s.Ping(t.Context()); err != nil {
			t.Errorf("%s: mended: %v", table, err)
		}
		if _, err := s.Accept(t.Context(), in); err != nil {
			t.Errorf("%s: mended: %v", table, err)
		}
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d errors in the log, want one a minute: %s", n, &log)
	}
}

// TestRefusedRow checks that a row which the database refuses is no trouble of the store: the same call would fail
// again for ever, and others do not.
func TestRefusedRow(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "kapsel.db"), Options{Migrate: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	change := func(sql string) {
		t.Helper()
		if err := s.writer.alone(func(c *conn) error { return c.script(sql) }); err != nil {
			t.Fatal(err)
		}
	}
	change("CREATE TRIGGER refuse BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'refused'); END")
	if _, err := s.Accept(t.Context(), store.Rehearsal()); err == nil || kapsel.CodeOf(err) != "" {
		t.Errorf("a row that is refused: %v", err)
	}
	change("DROP TRIGGER refuse")
	if _, err := s.Accept(t.Context(), store.Rehearsal()); err != nil {
		t.Errorf("a row that is not refused: %v", err)
	}
}

// What is missing is found at start, too.
func TestOpen_AColumnIsMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kapsel.db")
	s, err := Open(t.Context(), path, Options{Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.writer.alone(func(c *conn) error { return c.script("ALTER TABLE events RENAME COLUMN body TO gone") }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(t.Context(), path, Options{Migrate: true}); err == nil || store.Passes(err) || !strings.Contains(err.Error(), "schema") {
		t.Errorf("error is %v", err)
	}
	if err == nil {
		s.Close()
	}
}

// Settings that SQLite changes without a word are read back.
func TestConnect_ReadsBack(t *testing.T) {
	s := openTest(t)
	c, err := open(s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if err := c.script("PRAGMA synchronous = NORMAL"); err != nil {
		t.Fatal(err)
	}
	if err := readBack(c); err == nil || !strings.Contains(err.Error(), "synchronous") {
		t.Errorf("error is %v", err)
	}
	memory, err := open(":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer memory.close()
	if err := readBack(memory); err == nil || !strings.Contains(err.Error(), "journal_mode") {
		t.Errorf("error is %v", err)
	}
}

// A rehearsal leaves nothing.
func TestPing_LeavesNothing(t *testing.T) {
	s := openTest(t)
	for range 3 {
		if err := s.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	err := s.read(t.Context(), func(c *conn) error {
		for _, table := range []string{"events", "deliveries", "idempotency_keys", "tenant_usage", "guards"} {
			var n int64
			if _, err := c.query("SELECT count(*) FROM " + table).one(func(s *stmt) { n = s.colInt() }); err != nil || n != 0 {
				t.Errorf("%s has %d rows, %v", table, n, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Another program that holds the database for a while is waited for; a file that is no
// database, or may not be written, never becomes one.
func TestOpen_WhatPasses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kapsel.db")
	s, err := Open(t.Context(), path, Options{Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	other, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.script("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE"); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), path, Options{Migrate: true})
	if !store.Passes(err) {
		t.Errorf("while another program writes: %v", err)
	}
	other.close()
	if s, err = Open(t.Context(), path, Options{}); err != nil {
		t.Fatalf("once it has gone: %v", err)
	}
	_, err = Open(t.Context(), path, Options{LockWait: time.Millisecond})
	if err == nil || store.Passes(err) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("while another Kapsel has it: %v", err)
	}
	s.Close()

	if _, err = Open(t.Context(), dir, Options{Migrate: true}); err == nil || store.Passes(err) {
		t.Errorf("a folder: %v", err)
	}
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, bytes.Repeat([]byte("no database "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = Open(t.Context(), text, Options{Migrate: true}); err == nil || store.Passes(err) {
		t.Errorf("a text file: %v", err)
	}
	for _, tt := range []struct {
		err    error
		passes bool
	}{
		{&os.PathError{Op: "open", Path: path, Err: syscall.ENOSPC}, true},
		{&os.PathError{Op: "open", Path: path, Err: syscall.EMFILE}, true},
		{&os.PathError{Op: "open", Path: path, Err: syscall.EACCES}, false},
		{&os.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}, false},
		{&dbError{code: 13, msg: "database or disk is full"}, true},
		{&dbError{code: 261, msg: "database is locked"}, true},
		{&dbError{code: 11, msg: "database disk image is malformed"}, false},
		{&dbError{code: 1, msg: "no such column"}, false},
		{&dbError{code: 275, msg: "CHECK constraint failed"}, false},
		{context.Canceled, false},
	} {
		if got := store.Passes(opening(tt.err)); got != tt.passes {
			t.Errorf("%v passes: %t", tt.err, got)
		}
	}
}
