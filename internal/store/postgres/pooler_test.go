package postgres

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// lockedLog is a log that a test reads while it is written.
type lockedLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lockedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lockedLog) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// dropped is a line of pgbouncer.ini with which it lets all settings of a client's start pass
// and drops them.
const dropped = "ignore_startup_parameters = extra_float_digits,options,synchronous_commit,statement_timeout,lock_timeout," +
	"idle_in_transaction_session_timeout,tcp_user_timeout,default_transaction_isolation,kapsel.tenant,jit," +
	"enable_seqscan,enable_bitmapscan,enable_hashjoin,enable_mergejoin,enable_material,plan_cache_mode,work_mem,search_path"

func TestPooler_SessionPoolingWorksWhateverThePoolerDrops(t *testing.T) {
	server := pgtest.Start(t)
	pgtest.Exec(t, server.URL("postgres"), "ALTER ROLE kapsel SET synchronous_commit = off")
	for _, settings := range [][]string{
		{"pool_mode = session"},
		{"pool_mode = session", dropped},
		{"pool_mode = session", dropped, "server_reset_query ="}, // sessions keep what clients left
	} {
		t.Run(strings.Join(settings, "; "), func(t *testing.T) {
			pooler := server.Pooler(t, settings...)
			url := pooler.URL(server.New(t))
			for range 2 { // the second time in sessions that were used
				s, err := Open(t.Context(), url, Options{Migrate: true})
				if err != nil {
					t.Fatal(err)
				}
				settle(t, s)
				for name, p := range map[string]session{"engine": engineSession, "people": peopleSession} {
					pool := s.engine
					if name == "people" {
						pool = s.people
					}
					conn, err := pool.Acquire(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					st, err := p.ask(t.Context(), conn.Conn().PgConn())
					conn.Release()
					if n, found := p.broken(st); err != nil || found {
						t.Errorf("%s: %v, %s is %q", name, err, n.name, st[n.name])
					}
				}
				if err := s.Ping(t.Context()); err != nil {
					t.Error(err)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestPooler_SettingsOfTheURL checks that what the URL asks for holds behind a pooler that drops what a client
// sends while it connects. In another schema Kapsel would find no tables, and make new ones.
func TestPooler_SettingsOfTheURL(t *testing.T) {
	server := pgtest.Start(t)
	for _, settings := range [][]string{{"pool_mode = session"}, {"pool_mode = session", dropped}} {
		pooler := server.Pooler(t, settings...)
		for _, asks := range []string{"search_path=elsewhere", "options=-csearch_path%3Delsewhere"} {
			if len(settings) == 1 && strings.HasPrefix(asks, "options") {
				continue // the pooler refuses options
			}
			t.Run(strings.Join(append(settings, asks), "; "), func(t *testing.T) {
				direct := server.New(t)
				pgtest.Exec(t, pgtest.Superuser(direct), "CREATE SCHEMA elsewhere AUTHORIZATION kapsel")
				s, err := Open(t.Context(), pooler.URL(direct)+"&"+asks, Options{Migrate: true})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				if _, err := s.Accept(t.Context(), anAcceptance()); err != nil {
					t.Error(err)
				}
				conn, err := pgx.Connect(t.Context(), pgtest.Superuser(direct))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close(t.Context())
				var events, public int
				if err := conn.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM elsewhere.events), (SELECT count(*) FROM pg_tables WHERE schemaname = 'public')").Scan(&events, &public); err != nil || events != 1 || public != 0 {
					t.Errorf("%d events are in the schema, %d tables in another, %v", events, public, err)
				}
			})
		}
	}
}

func TestPooler_OtherPoolingIsRefusedByName(t *testing.T) {
	server := pgtest.Start(t)
	for _, tt := range []struct {
		name     string
		settings []string
		busy     int // transactions that other clients have open at the same time, before
		want     string
	}{
		{"transaction", []string{"pool_mode = transaction"}, 0, "transaction pooling"},
		{"transaction, dropping", []string{"pool_mode = transaction", dropped}, 0, "transaction pooling"},
		{"transaction, one session", []string{"pool_mode = transaction", "default_pool_size = 1"}, 0, "transaction pooling"},
		{"transaction, in turn, two sessions", []string{"pool_mode = transaction", "server_round_robin = 1"}, 2, "transaction pooling"},
		{"transaction, in turn, five sessions", []string{"pool_mode = transaction", "server_round_robin = 1"}, 5, "transaction pooling"},
		{"statement", []string{"pool_mode = statement"}, 0, "statement pooling"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pooler := server.Pooler(t, tt.settings...)
			url := pooler.URL(server.New(t))
			var others []*pgx.Conn
			for range tt.busy {
				conn, err := pgx.Connect(t.Context(), url)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close(context.Background())
				if _, err := conn.PgConn().Exec(t.Context(), "BEGIN").ReadAll(); err != nil {
					t.Fatal(err)
				}
				others = append(others, conn)
			}
			for _, conn := range others {
				if _, err := conn.PgConn().Exec(t.Context(), "ROLLBACK").ReadAll(); err != nil {
					t.Fatal(err)
				}
			}
			s, err := Open(t.Context(), url, Options{Migrate: true})
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, ErrPooling) || !strings.Contains(err.Error(), tt.want) || store.Passes(err) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

// A pooler may be started with another mode, or reload it, at any time.
func TestPooler_ChangesItsModeAtRunTime(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *pgtest.Pooler){
		"started anew": func(t *testing.T, p *pgtest.Pooler) { p.Stop(t); p.Start(t) },
		"reloaded":     func(t *testing.T, p *pgtest.Pooler) { p.Reload(t) },
	} {
		t.Run(name, func(t *testing.T) {
			server := pgtest.Start(t)
			pooler := server.Pooler(t, "pool_mode = session")
			var log lockedLog
			s, err := Open(t.Context(), pooler.URL(server.New(t)), Options{Migrate: true, Log: log.logger()})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			settle(t, s)

			pooler.Set(t, "pool_mode = transaction")
			change(t, pooler)
			until(t, "it is not ready", func() bool {
				err := s.Ping(t.Context())
				return errors.Is(err, ErrPooling) && kapsel.CodeOf(err) == kapsel.DatabaseUnavailable
			})
			until(t, "nothing is accepted", func() bool {
				_, err := s.Accept(t.Context(), anAcceptance())
				return errors.Is(err, ErrPooling) && kapsel.CodeOf(err) == kapsel.DatabaseUnavailable
			})
			if _, err := s.KeyByHash(t.Context(), [32]byte{1}); kapsel.CodeOf(err) != kapsel.DatabaseUnavailable {
				t.Errorf("a key is asked for: %v", err)
			}
			if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "transaction pooling") {
				t.Errorf("the log has %s", log.String())
			}

			pooler.Set(t, "pool_mode = session")
			pooler.Stop(t)
			pooler.Start(t)
			until(t, "it is ready", func() bool { return s.Ping(t.Context()) == nil })
			if _, err := s.Accept(t.Context(), anAcceptance()); err != nil {
				t.Error(err)
			}
		})
	}
}

// until waits for something.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// anAcceptance is an event and its delivery of a tenant that nobody knows.
func anAcceptance() store.Acceptance {
	now := time.Now().UTC()
	ep, tenant := kapsel.NewEndpointID(now), kapsel.NewTenantID(now)
	part := kapsel.PartOf(ep)
	e := kapsel.Event{ID: kapsel.NewEventID(now, part), TenantID: tenant, EndpointID: ep, ReceivedAt: now}
	d := kapsel.Delivery{ID: kapsel.NewDeliveryID(now, part), EventID: e.ID, EndpointID: ep, TenantID: tenant, DueAt: now, CreatedAt: now}
	return store.Acceptance{Event: e, Deliveries: []kapsel.Delivery{d}, Window: time.Minute}
}

// A batch that another session has written is written again in a session of the lane's own: the
// other may not wait for the disk. (PgBouncer keeps prepared statements in transaction pooling
// from 1.21 on, so that they do not fail.)
func TestPooler_ALaneNoticesAnotherSession(t *testing.T) {
	server := pgtest.Start(t)
	pooler := server.Pooler(t, "pool_mode = session")
	s, err := Open(t.Context(), pooler.URL(server.New(t)), Options{Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const another = "1"
	s.acceptor.lane.conn.CustomData()[backendKey] = another
	if _, err := s.Accept(t.Context(), anAcceptance()); err != nil {
		t.Error(err)
	}
	if got := backendOf(s.acceptor.lane.conn); got == another {
		t.Error("the lane goes on with its connection")
	}
}
