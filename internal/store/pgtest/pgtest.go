// Package pgtest gives tests a real PostgreSQL that is thrown away afterwards.
//
// One cluster serves all tests of a process: it is made when the first test asks for it, in
// a temporary directory, and every test gets a database of its own in it (New, or From a
// template). Tests that stop, freeze or kill the server start one of their own (Start).
//
// The URLs are those of a plain role that owns the database, as an operator should connect:
// a superuser passes over row-level security (Superuser gives one, to look behind it).
//
// Durability is what such tests are about, so fsync stays on. PostgreSQL refuses to run as
// root; a root process runs it as the user postgres. A missing PostgreSQL fails the test.
//
// A cluster does not outlive the process that started it, however that ends: a small
// watcher waits for the process's end of a pipe to close, stops the server and removes its files.
package pgtest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// New makes an empty database in the process's cluster and returns its URL.
func New(t testing.TB) string {
	t.Helper()
	return shared(t).New(t)
}

// From returns the URL of a database that is as a template is. The template is built
// once a process, by the first test that names it: build gets the URL of an empty database,
// and must have closed its connections when it returns.
func From(t testing.TB, template string, build func(ctx context.Context, url string) error) string {
	t.Helper()
	return shared(t).From(t, template, build)
}

// cluster is the process's own; it lives until the process ends.
var cluster struct {
	sync.Mutex
	server *Server
}

func shared(t testing.TB) *Server {
	t.Helper()
	cluster.Lock()
	defer cluster.Unlock()
	if cluster.server == nil {
		s, err := start(nil)
		if err != nil {
			t.Fatalf("start PostgreSQL: %v", err)
		}
		cluster.server = s
	}
	return cluster.server
}

// New makes an empty database on the server and returns its URL.
func (s *Server) New(t testing.TB) string {
	t.Helper()
	name := s.create(t, "")
	t.Cleanup(func() {
		// A server that the test has stopped takes its databases along.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s.drop(ctx, name)
	})
	return s.ownerURL(name)
}

// databases counts the databases of the process, to name them.
var databases atomic.Int64

// create makes a database, a copy of a template unless that is "", and returns its name.
func (s *Server) create(t testing.TB, template string) string {
	t.Helper()
	name := fmt.Sprintf("test_%d", databases.Add(1))
	create := "CREATE DATABASE " + name + " OWNER " + owner
	if template != "" {
		create += " TEMPLATE " + template
	}
	if err := s.exec(t.Context(), create); err != nil {
		t.Fatalf("create database: %v", err)
	}
	return name
}

// drop drops a database and ends its sessions, if the server runs.
func (s *Server) drop(ctx context.Context, name string) {
	_ = s.exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
}

// Exec runs statements in the database of a URL, each in a transaction of its own.
func Exec(t testing.TB, url string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// exec runs one statement as the superuser.
func (s *Server) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}
