// Package postgres keeps Kapsel's data in PostgreSQL, version 14 or newer. Any number of nodes
// share one database.
//
// The hot path is group commits: one goroutine with a connection of its own writes acceptances,
// another writes completions. Each batch goes as arrays in one round trip, which is one implicit
// transaction (committer, in commit.go). Claims and the renewal of leases have connections of
// their own too, so that a slow query of a person never delays them. All other calls use two
// pools: the engine's, which spans tenants, and one for what is done for a tenant or the admin,
// where row-level security hides all rows but those of the call's view. A connector makes all of
// these connections, and refuses a connection whose session or server would break a promise.
//
// Nodes coordinate by rows alone: leases are rows with an expiry, and work is handed out by FOR
// UPDATE SKIP LOCKED. The package uses no advisory locks, no LISTEN/NOTIFY and no serializable
// transactions. Within a transaction rows are locked in the order of their keys, and the settings
// counter's row before circuits and after everything else, so that writers do not deadlock.
package postgres

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Options holds how a store is opened.
type Options struct {
	Observe store.CommitObserver // is told of every group commit; nil: nothing is
	Log     *slog.Logger         // nil: nothing is logged
	// Migrate brings an old or empty schema up to date; without it Open refuses one.
	Migrate bool
	// OnlyEmpty makes Migrate refuse, and not change, a database that has an older schema and holds
	// data.
	OnlyEmpty bool
	// Another lets Migrate make Kapsel's tables also in a database that has some in another schema.
	Another bool
	// External says that the server keeps what it commits although it may run without fsync or
	// full_page_writes. Servers do so that have their data on storage of another kind.
	External bool
	Ledger   bool  // the store tells the facts of deliveries; see store.Ledger
	MaxBody  int64 // the longest body, in bytes; 0: store.UsualBody
}

// Store is a store.Store in PostgreSQL.
type Store struct {
	*core
	by *store.Author // whose changes are written down; nil: nobody's
}

// By returns the store for an author's changes; see store.Changes.
func (s *Store) By(a store.Author) store.Store { return &Store{s.core, &a} }

// core is the connections, which all Stores on them share.
type core struct {
	from        *connector
	engine      *pgxpool.Pool // spans tenants
	people      *pgxpool.Pool // sees nothing outside a transaction of a view
	acceptor    *committer[*acceptance]
	completer   *committer[*completion]
	claims      guarded // of Claim and GiveBack
	renewals    guarded // of Renew
	writersDone sync.WaitGroup
	ledger      bool // Options.Ledger

	seqBase int64        // by how much events' seq is ahead of transaction ids; see streamBase
	horizon atomic.Int64 // all events below this seq were found to be visible
}

var _ store.Store = (*Store)(nil)

// Open connects to the database of a URL and checks that Kapsel can rely on it. Open fails with
// ErrURL for a URL that cannot be used; with ErrUnsafe for a server that runs without fsync or
// full_page_writes, or is too old; with ErrSession or ErrPooling for what a pooler or proxy in
// between makes of a connection; and with ErrSchema for a schema that this binary cannot use. An
// error for which store.Passes is true may be gone a moment later: the server restarts, or is not
// there yet. Several nodes may open an empty database at once: one makes the schema and the others
// wait for it. Callers must call Close.
func Open(ctx context.Context, url string, opts Options) (*Store, error) {
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	from, err := newConnector(url, opts, log)
	if err != nil {
		return nil, err
	}
	s := &Store{core: &core{from: from, ledger: opts.Ledger}}
	if err := s.open(ctx, opts); err != nil {
		return nil, opening(err)
	}
	from.alarm = store.NewAlarm(log)
	s.writersDone.Go(s.acceptor.loop)
	s.writersDone.Go(s.completer.loop)
	return s, nil
}

// open makes everything but the writers' goroutines. After an error no connection is left open.
func (s *Store) open(ctx context.Context, opts Options) (err error) {
	if err := s.from.prepare(ctx, opts); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.closePools()
		}
	}()
	if s.people, err = s.from.pool(ctx, peopleSession, math.MaxInt32); err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	if s.engine, err = s.from.pool(ctx, engineSession, 5); err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	if s.seqBase, err = s.streamBase(ctx); err != nil {
		return fmt.Errorf("read where the stream of events is: %w", err)
	}
	s.claims.lane, s.claims.limit = newLane(s.from, claimStatements), callTimeout+s.from.bodyTime
	s.renewals.lane, s.renewals.limit = newLane(s.from, renewStatements), callTimeout
	accepts, completions := slots()
	a, c := newAcceptor(s.seqBase, accepts), newCompleter(completions)
	acceptStatements, completeStatements := acceptStatements, completeStatements
	if s.ledger {
		acceptStatements, completeStatements = with(acceptStatements, ledgerAcceptStatements), with(completeStatements, ledgerCompleteStatements)
		a.ledger, c.telling, c.tally.Told = true, newTelling(), store.NewTold()
	}
	s.acceptor = newCommitter(newLane(s.from, acceptStatements), a.write, 0, opts.Observe)
	s.acceptor.rehearsal, s.acceptor.patience = a.rehearse, acceptPatience
	s.completer = newCommitter(newLane(s.from, completeStatements), c.write, completionWindow, opts.Observe)
	// The acceptor's statements are prepared now, so that a schema that lacks something is found.
	if err := s.acceptor.lane.open(ctx); err != nil {
		s.acceptor.lane.close()
		return fmt.Errorf("prepare to accept events: %w", err)
	}
	return nil
}

func (s *Store) closePools() {
	for _, p := range []*pgxpool.Pool{s.people, s.engine} {
		if p != nil {
			p.Close()
		}
	}
}

// Close waits for writes under way and closes all connections. Later calls fail.
func (s *Store) Close() error {
	s.acceptor.Close()
	s.completer.Close()
	s.writersDone.Wait()
	s.claims.close()
	s.renewals.close()
	s.closePools()
	return nil
}

// Time returns the time of the server's clock, as it was some time during the call.
func (s *Store) Time(ctx context.Context) (now time.Time, err error) {
	st, err := s.look(ctx)
	if err != nil {
		return now, err
	}
	micros, err := strconv.ParseInt(st["micros"], 10, 64)
	return time.UnixMicro(micros).UTC(), s.from.failed(err)
}

// Ping fails if the server takes no writes. It does all that Accept does except the commit.
func (s *Store) Ping(ctx context.Context) error {
	if _, err := s.look(ctx); err != nil {
		return err
	}
	return s.acceptor.rehearse(ctx)
}

// look returns the state of a session of the engine. It has all connections made anew if the
// session is not as Kapsel asked for it, or if the server takes no writes any more; it fails then.
func (s *Store) look(ctx context.Context) (st state, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := s.engine.Acquire(ctx)
	if err == nil {
		st, err = s.from.holds(ctx, conn.Conn().PgConn(), engineSession)
		conn.Release()
	}
	if err == nil && st["transaction_read_only"] == "on" {
		err = errReadOnly
	}
	if lasting(err) || errors.Is(err, errReadOnly) {
		s.renew()
	}
	return st, s.from.failed(err)
}

// renew has all connections made anew, each when no call uses it.
func (s *Store) renew() {
	s.from.generation.Add(1)
	s.people.Reset()
	s.engine.Reset()
}

// view says whose rows a call works on, and on which pool.
type view struct {
	people bool
	tenant kapsel.TenantID
}

// engine is the view of calls that are made for no tenant: all rows.
var engine view

// viewOf returns the view of calls that are made for a tenant, or for the admin, who is the zero
// tenant and sees every row. Row-level security keeps the call's statements within the view,
// whatever they say.
func viewOf(tenant kapsel.TenantID) view { return view{people: true, tenant: tenant} }

// begin returns how a transaction of people begins, in one round trip. SET LOCAL with the value in
// its text is the one form that a distributed PostgreSQL passes on to where the rows are.
func (v view) begin() pgx.TxOptions {
	value := everyone
	if v.tenant != (kapsel.TenantID{}) {
		value = hex.EncodeToString(v.tenant[:])
	}
	return pgx.TxOptions{BeginQuery: "BEGIN; SET LOCAL " + tenantSetting + " = '" + value + "'"}
}

// callTimeout bounds a call that goes over a pool, even if the network swallows what is sent. It
// is a little longer than the server's own limit for a statement.
const callTimeout = 6 * time.Second

// read calls run with a querier of the view, for queries that read no bodies. It bounds the call
// by callTimeout and returns run's error as a method returns it.
func (s *Store) read(ctx context.Context, v view, run func(context.Context, querier) error) error {
	return s.readWithin(ctx, callTimeout, v, run)
}

func (s *Store) readWithin(ctx context.Context, limit time.Duration, v view, run func(context.Context, querier) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if !v.people {
		return s.from.failed(run(ctx, s.engine))
	}
	return s.from.failed(pgx.BeginTxFunc(ctx, s.people, v.begin(), func(tx pgx.Tx) error { return run(ctx, tx) }))
}

// change calls run in a transaction, and again if another transaction got in its way. Callers must
// expect that run is called several times, each time on rows as they are then.
func (s *Store) change(ctx context.Context, v view, run func(ctx context.Context, tx pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := retry(ctx, func() error {
		inTx := func(tx pgx.Tx) error { return run(ctx, tx) }
		if !v.people {
			return pgx.BeginFunc(ctx, s.engine, inTx)
		}
		return pgx.BeginTxFunc(ctx, s.people, v.begin(), inTx)
	})
	if stale(err) {
		s.renew()
	}
	var theirs callerError
	if errors.As(err, &theirs) {
		return theirs.error
	}
	return s.from.failed(err)
}

// callerError is an error of a function that a caller gave. change returns it unchanged.
type callerError struct{ error }

// list returns the rows of a query, each as scan reads it.
func list[T any](ctx context.Context, s *Store, v view, scan func(*row) T, sql string, args ...any) (out []T, err error) {
	err = s.read(ctx, v, func(ctx context.Context, q querier) error {
		out, err = collect(ctx, q, scan, sql, args...)
		return err
	})
	return out, err
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// collect does what list does on a pool or in a transaction, and returns errors as they came.
func collect[T any](ctx context.Context, q querier, scan func(*row) T, sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, append([]any{pgx.QueryResultFormats{pgx.BinaryFormatCode}}, args...)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		r := row{values: rows.RawValues()}
		out = append(out, scan(&r))
		if r.err != nil {
			return nil, r.err
		}
	}
	return out, rows.Err()
}

// first is collect for a query of at most one row. ok is false if there was none.
func first[T any](ctx context.Context, q querier, scan func(*row) T, sql string, args ...any) (v T, ok bool, err error) {
	all, err := collect(ctx, q, scan, sql, args...)
	if err != nil || len(all) == 0 {
		return v, false, err
	}
	return all[0], true, nil
}

// id returns an id as an argument of the pool's queries: null for the zero id.
func id[T ~[16]byte](v T) any {
	if v == (T{}) {
		return nil
	}
	return [16]byte(v)
}

// part returns the part of an id as an argument of the pool's queries.
func part[T interface{ Part() uint8 }](id T) int16 { return int16(id.Part()) }

// partsOf returns the parts of ids as an argument: ids of events, deliveries or attempts, which all
// have it at the same place.
func partsOf(ids [][16]byte) []int16 {
	parts := make([]int16, len(ids))
	for i, v := range ids {
		parts[i] = part(kapsel.EventID(v))
	}
	return parts
}

// before returns the id below which a page starts: v, or for the zero id one above every id.
func before[T ~[16]byte](v T) [16]byte {
	if v == (T{}) {
		return [16]byte{0: 0xff}
	}
	return v
}

// at returns a time as an argument of the pool's queries: null for the zero time.
func at(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t
}
