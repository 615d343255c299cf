package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// sample is a row of one value of each type.
type sample struct {
	Small  int
	Int    int
	Big    int64
	ID     [16]byte
	Time   time.Time
	Bytes  []byte
	Text   string
	Header kapsel.Header
}

// What is written as arrays comes back from the server as it was, zero values and all.
func TestWireForms(t *testing.T) {
	l := newLane(connectorOf(t, pgtest.New(t)), map[string]string{"echo": `
		SELECT * FROM unnest($1::smallint[], $2::integer[], $3::bigint[], $4::uuid[], $5::timestamptz[], $6::bytea[], $7::text[], $8::bytea[])`})
	defer l.drop()
	if err := l.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	written := newTable(int2Type, int4Type, int8Type, uuidType, timeType, bytesType, textType, bytesType)
	draw := rapid.Custom(func(t *rapid.T) sample {
		s := sample{
			Small: int(rapid.Int16().Draw(t, "small")),
			Int:   int(rapid.Int32().Draw(t, "int")),
			Big:   rapid.Int64().Draw(t, "big"),
			Bytes: rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "bytes"),
			Text:  rapid.StringMatching(`[a-zé✓ ]*`).Draw(t, "text"),
		}
		copy(s.ID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		if rapid.Bool().Draw(t, "has time") {
			s.Time = time.UnixMicro(rapid.Int64Range(-62135596800_000_000+1, 253402300799_999_999).Draw(t, "time")).UTC()
		}
		if rapid.Bool().Draw(t, "no bytes") {
			s.Bytes = nil
		}
		for range rapid.IntRange(0, 3).Draw(t, "headers") {
			s.Header = append(s.Header, kapsel.HeaderField{Name: "X-Name", Value: rapid.StringMatching(`[^\r\n\x00]*`).Draw(t, "value")})
		}
		return s
	})
	// A table that no row was ever written to is empty arrays of the right types.
	if err := l.run(t.Context(), command{"echo", written.params(), nil}); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(draw, 0, 20).Draw(t, "rows")
		written.reset()
		for _, s := range want {
			written.int2(s.Small)
			written.int4(s.Int)
			written.int8(s.Big)
			written.id(s.ID)
			written.time(s.Time)
			written.optional(s.Bytes)
			written.text(s.Text)
			written.header(s.Header)
		}
		var got []sample
		err := l.run(context.Background(), command{"echo", written.params(), func(r *row) {
			got = append(got, sample{
				Small: r.int2(), Int: r.int4(), Big: r.int8(), ID: r.id(), Time: r.time(), Bytes: r.bytes(), Text: r.text(), Header: r.header(),
			})
		}})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("-written +read:\n%s", d)
		}
	})
}

// TestSession_F_B8_DurabilityWinsOverTheRole checks that every session commits synchronously
// and with its time limits, whatever the database, the role or the environment is set to.
func TestSession_F_B8_DurabilityWinsOverTheRole(t *testing.T) {
	url := pgtest.New(t)
	s, err := Open(t.Context(), url, Options{Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.engine.Exec(t.Context(), `DO $$ BEGIN
		EXECUTE 'ALTER DATABASE ' || current_database() || ' SET synchronous_commit = off';
		EXECUTE 'ALTER DATABASE ' || current_database() || ' SET statement_timeout = 0'; END $$`)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGOPTIONS", "-c synchronous_commit=off")
	if s, err = Open(t.Context(), url, Options{}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const ask = "SELECT current_setting('synchronous_commit') || ' ' || current_setting('statement_timeout') || ' ' || current_setting('lock_timeout')"
	const want = "on 5s 2s"
	var got string
	if err := s.engine.QueryRow(t.Context(), ask).Scan(&got); err != nil || got != want {
		t.Errorf("the pool's sessions have %q, %v", got, err)
	}
	for name, l := range map[string]*lane{
		"accept": s.acceptor.lane, "complete": s.completer.lane, "claim": s.claims.lane, "renew": s.renewals.lane,
	} {
		l = newLane(l.from, map[string]string{"ask": ask})
		if err := l.open(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := l.run(t.Context(), command{"ask", nil, func(r *row) { got = r.text() }}); err != nil || got != want {
			t.Errorf("the session of %s has %q, %v", name, got, err)
		}
		l.drop()
	}
}
