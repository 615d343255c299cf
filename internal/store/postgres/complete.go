package postgres

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/batch"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

type completion struct {
	store.Completion
	moved bool // this batch has moved the delivery
}

// completionWindow is how long a batch gathers completions under load: no caller waits for one,
// and a batch of twice as many costs little more.
const completionWindow = 2 * time.Millisecond

// Complete records an attempt and moves its delivery; see store.Queue.
func (s *Store) Complete(_ context.Context, done store.Completion) error {
	return s.completer.do(&completion{Completion: done}, 1, len(done.Attempt.ResponseBody))
}

// The attempt's row is inserted from the rows that were moved: it exists exactly if the delivery moved.
// The token is unique to one claim, so no other attempt can match, and only held deliveries have a
// token. (A condition on the status too would lead the planner to the index of open deliveries.)
//
// What a batch adds to the counters is summed up before it is sent, which costs less than thirty
// sums over its rows, and its entries of the audit log's outbox are packed. So the sums are added and
// the packs inserted if the whole batch has moved, and not if nothing has moved: an earlier run was
// committed, or all was taken over. If only a part of the batch has moved, the batch fails, by a slot
// that the tables' constraints refuse, and its calls are run one by one (committer.separately).
var completeStatements = map[string]string{
	"complete": `
		WITH done AS (
			UPDATE deliveries d
			SET status = u.status, due_at = u.due_at, put_off_by = nullif(u.put_off_by, 0), node = NULL, token = NULL,
				attempts = u.attempts, counted = u.counted, takeovers = u.takeovers, last_status_code = u.last_status_code,
				last_error_code = u.last_error_code, finished_at = u.finished_at
			FROM unnest($1::smallint[], $2::uuid[], $3::uuid[], $4::smallint[], $5::timestamptz[], $6::integer[],
				$7::integer[], $8::integer[], $9::integer[], $10::text[], $11::timestamptz[],
				$12::integer[], $13::timestamptz[], $14::bigint[], $15::integer[], $16::text[], $17::bytea[],
				$18::bytea[], $19::bytea[], $20::bytea[], $21::integer[])
				WITH ORDINALITY AS u (part, id, token, status, due_at, attempts,
				counted, takeovers, last_status_code, last_error_code, finished_at,
				number, started_at, duration, status_code, error_code, error,
				request_headers, response_headers, response_body, put_off_by, n)
			WHERE d.part = u.part AND d.id = u.id AND d.token = u.token
			RETURNING u.part, u.token, d.id, d.event_id, d.endpoint_id, d.tenant_id, u.number, u.started_at, u.duration,
				u.status_code, u.error_code, u.error, u.request_headers, u.response_headers, u.response_body, u.n
		), written AS (
			INSERT INTO attempts (part, id, delivery_id, event_id, endpoint_id, tenant_id, number, started_at, duration,
				status_code, error_code, error, request_headers, response_headers, response_body, logged)
			SELECT part, token, id, event_id, endpoint_id, tenant_id, number, started_at, duration,
				status_code, error_code, error, request_headers, response_headers, response_body, true FROM done
		), whole AS (
			SELECT count(*) AS n, CASE count(*) WHEN $29::bigint THEN $30::smallint ELSE -1 END AS slot FROM done
		), ` + logEnds(22, "(SELECT slot FROM whole)", "(SELECT n FROM whole) > 0") + `, ` + countEnds(31, "(SELECT slot FROM whole)", "(SELECT n FROM whole) > 0") + `
		SELECT n FROM done`,
	"recorded": `
		SELECT u.n, a.started_at, a.duration, a.status_code, a.error_code
		FROM unnest($1::smallint[], $2::uuid[]) WITH ORDINALITY AS u (part, id, n)
		JOIN attempts a ON a.part = u.part AND a.id = u.id`,
}

// completer writes batches of completions. Only the committer's goroutine may use it.
type completer struct {
	attempts, recorded *table
	tally              store.Tally                // of the batch
	counters           *tallied                   // the tally as parameters
	calls              []*batch.Call[*completion] // of the batch, sorted
	packing            *packing                   // the batch's entries of the audit log's outbox, as parameters
	telling            *telling                   // what the tally tells as parameters; nil: it tells nothing
}

func newCompleter(slot int) *completer {
	return &completer{
		tally: store.NewTally(), counters: newTallied(slot), packing: newPacking(),
		attempts: newTable(int2Type, uuidType, uuidType, int2Type, timeType, int4Type,
			int4Type, int4Type, int4Type, textType, timeType,
			int4Type, timeType, int8Type, int4Type, textType, bytesType,
			bytesType, bytesType, bytesType, int4Type),
		recorded: newTable(int2Type, uuidType),
	}
}

// write stores a batch, with its rows in the order of their keys. A call whose delivery is no
// longer held fails with NotHeld, unless the attempt is stored with the same outcome.
func (w *completer) write(ctx context.Context, l *lane, calls []*batch.Call[*completion]) error {
	w.calls = append(w.calls[:0], calls...)
	defer func() { clear(w.calls) }()
	slices.SortFunc(w.calls, byDelivery)
	w.attempts.reset()
	w.tally.Reset()
	for _, c := range w.calls {
		c.Err, c.In.moved = nil, false
		w.add(&c.In.Completion)
		w.tally.Attempt(&c.In.Attempt, &c.In.Delivery)
	}
	params := append(w.attempts.params(w.packing.params(w.calls)...), int8Param(len(w.calls)))
	params = append(params, w.counters.params(w.tally)...)
	if w.telling != nil {
		params = append(params, w.telling.params(w.tally.Told)...)
	}
	err := l.run(ctx, command{"complete", params, func(r *row) {
		w.calls[r.int8()-1].In.moved = true
	}})
	if err != nil {
		return err
	}

	// A delivery that did not move was taken over, or an earlier run, or another call, has moved it.
	var still []*batch.Call[*completion]
	w.recorded.reset()
	for _, c := range w.calls {
		if c.In.moved {
			continue
		}
		c.Err = rules.NotHeld()
		still = append(still, c)
		w.recorded.int2(int(c.In.Attempt.ID.Part()))
		w.recorded.id(c.In.Attempt.ID)
	}
	if len(still) == 0 {
		return nil
	}
	return l.run(ctx, command{"recorded", w.recorded.params(), func(r *row) {
		c := still[r.int8()-1]
		stored := kapsel.Attempt{StartedAt: r.time(), Duration: time.Duration(r.int8()), StatusCode: r.int4(), ErrorCode: kapsel.Code(r.text())}
		if rules.SameOutcome(&c.In.Attempt, &stored) {
			c.Err = nil
		}
	}})
}

// byDelivery compares calls by their rows in deliveries.
func byDelivery(x, y *batch.Call[*completion]) int {
	a, b := &x.In.Delivery.ID, &y.In.Delivery.ID
	return cmp.Or(cmp.Compare(a.Part(), b.Part()), bytes.Compare(a[:], b[:]))
}

func (w *completer) add(in *store.Completion) {
	d, a, t := &in.Delivery, &in.Attempt, w.attempts
	t.int2(int(d.ID.Part()))
	t.id(d.ID)
	t.id(a.ID)
	t.int2(int(d.Status))
	t.time(d.DueAt)
	t.int4(d.Attempts)
	t.int4(d.Counted)
	t.int4(d.Takeovers)
	t.int4(d.LastStatusCode)
	t.text(string(d.LastErrorCode))
	t.time(d.FinishedAt)
	t.int4(a.Number)
	t.time(a.StartedAt)
	t.int8(int64(a.Duration))
	t.int4(a.StatusCode)
	t.text(string(a.ErrorCode))
	t.text(a.Error)
	t.header(a.RequestHeaders)
	t.header(a.ResponseHeaders)
	t.bytes(a.ResponseBody)
	t.int4(d.PutOffBy)
}
