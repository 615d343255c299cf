package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// ledger adds the routes of the ledger: what people read, and what kapsel-ledger books by.
func (a *api) ledger() {
	op := tagged("Ledger")
	off := failure{404, kapsel.NotFound}
	busy := failure{409, kapsel.Conflict}
	acknowledge := op("acknowledge-ledger-entries", http.MethodPost, "/v1/ledger/acknowledgements", "Acknowledge entries that were booked")
	report := op("report-books", http.MethodPost, "/v1/ledger/reports", "Report what the books say")
	acknowledge.DefaultStatus, report.DefaultStatus = http.StatusNoContent, http.StatusNoContent
	add(a, access.Read, fails(op("get-ledger", http.MethodGet, "/v1/ledger", "List what was told and what is booked, by tenant and endpoint"), off), a.getLedger)
	add(a, access.Read, fails(op("list-ledger-conflicts", http.MethodGet, "/v1/ledger/conflicts", "List what the books and the store do not agree on"), off), a.listLedgerConflicts)
	add(a, access.Book, fails(op("list-ledger-entries", http.MethodGet, "/v1/ledger/entries", "List entries that are not booked yet"), off, busy), a.listLedgerEntries)
	add(a, access.Book, fails(takes[Acknowledgement](acknowledge), off), a.acknowledgeLedger)
	add(a, access.Book, fails(takes[BooksReport](report), off), a.reportBooks)
	add(a, access.Book, fails(op("list-books", http.MethodGet, "/v1/ledger/reports", "List the accounts that a report is about, as /v1/ledger does"), off), a.listBooks)
}

// LedgerQuery is a page of accounts.
type LedgerQuery struct {
	PageQuery
	TenantID   kapsel.TenantID   `query:"tenant_id" doc:"Only of this tenant; with the admin key only"`
	EndpointID kapsel.EndpointID `query:"endpoint_id" doc:"Only this endpoint's account"`
}

func (a *api) listBooks(ctx context.Context, in *PageQuery) (*out[Ledger], error) {
	return a.getLedger(ctx, &LedgerQuery{PageQuery: *in})
}

// Ledger is a page of accounts.
type Ledger struct {
	Data       []LedgerAccount `json:"data"`
	NextCursor *string         `json:"next_cursor" nullable:"true" doc:"The cursor of the next page; null on the last"`
	Complete   bool            `json:"complete" doc:"Whether all deliveries were told; false for a while after the ledger was turned on, and while a node runs without it"`
	ErrorCode  *kapsel.Code    `json:"error_code" nullable:"true" doc:"E3002 if an account has no report of the last five minutes, or there is no account"`
}

func (a *api) getLedger(ctx context.Context, in *LedgerQuery) (*out[Ledger], error) {
	c := callOf(ctx)
	var page []manage.LedgerAccount
	var after store.Owner
	if in.Cursor != "" {
		tenant, endpoint, _ := strings.Cut(in.Cursor, ".")
		first, err := a.openCursor(c, tenant)
		second, err2 := a.openCursor(c, endpoint)
		if err != nil || err2 != nil {
			return nil, errCursor
		}
		after = store.Owner{TenantID: first, EndpointID: second}
	}
	var err error
	if !in.EndpointID.IsZero() {
		var one manage.LedgerAccount
		one, err = a.Manage.LedgerAccount(ctx, callerOf(ctx), in.EndpointID)
		page = append(page, one)
	} else {
		page, err = a.Manage.LedgerAccounts(ctx, callerOf(ctx), in.TenantID, after, in.Limit+1)
	}
	if err != nil {
		return nil, err
	}
	v := Ledger{Data: []LedgerAccount{}}
	if v.Complete, err = a.Manage.LedgerComplete(ctx, callerOf(ctx)); err != nil {
		return nil, err
	}
	if len(page) > in.Limit {
		page = page[:in.Limit]
		last := page[in.Limit-1].Owner
		v.NextCursor = new(a.cursor(c, last.TenantID) + "." + a.cursor(c, last.EndpointID))
	}
	for i := range page {
		account := viewLedgerAccount(&page[i])
		if v.Data = append(v.Data, account); account.ErrorCode != nil {
			v.ErrorCode = account.ErrorCode
		}
	}
	if len(page) == 0 {
		v.ErrorCode = new(kapsel.LedgerUnavailable)
	}
	return answer(v), nil
}

// LedgerAccount is what was told of a tenant's or an endpoint's deliveries, and what is booked.
type LedgerAccount struct {
	TenantID   kapsel.TenantID    `json:"tenant_id"`
	EndpointID *kapsel.EndpointID `json:"endpoint_id" nullable:"true" doc:"Null: the account is the tenant's own, of all its endpoints"`
	Store      LedgerTotals       `json:"store" doc:"What the store counts"`
	Unbooked   *LedgerTotals      `json:"unbooked" doc:"What of that waits to be booked; null: so much that it is not counted"`
	Books      *LedgerTotals      `json:"books" doc:"What the books said when they were last compared; null: not in the last five minutes"`
	Expected   *LedgerTotals      `json:"expected" doc:"What the books should have said then; null with books"`
	Difference *LedgerTotals      `json:"difference" doc:"Books without expected: all zeros if they agree; null with books"`
	ReportedAt *timestamp         `json:"reported_at" nullable:"true" doc:"When they were compared; null with books"`
	ErrorCode  *kapsel.Code       `json:"error_code" nullable:"true" doc:"E3002 if books is null"`
}

// TransformSchema says which objects may be null.
func (LedgerAccount) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	for _, name := range []string{"unbooked", "books", "expected", "difference"} {
		mayBeNull(s, name)
	}
	return s
}

// LedgerTotals counts deliveries.
type LedgerTotals struct {
	Made       int64  `json:"made" doc:"How many were made: accepted and replayed"`
	Accepted   *int64 `json:"accepted" nullable:"true" doc:"Made for events; null: the books of an endpoint know the sum only"`
	Replayed   *int64 `json:"replayed" nullable:"true" doc:"Made to repeat others; null: the books of an endpoint know the sum only"`
	InFlight   *int64 `json:"in_flight" nullable:"true" doc:"Made and not ended; null: the books of a tenant do not know"`
	Delivered  *int64 `json:"delivered" nullable:"true" doc:"Ended so; null: the books of a tenant do not know, as of the next three"`
	Failed     *int64 `json:"failed" nullable:"true" doc:"Refused by the destination"`
	DeadLetter *int64 `json:"dead_letter" nullable:"true" doc:"Out of attempts"`
	Canceled   *int64 `json:"canceled" nullable:"true" doc:"Canceled by a person, or with the endpoint"`
}

// viewTotals shows totals with what was made and with what ended, or without one of these.
func viewTotals(t kapsel.FactTotals, made, ended bool) *LedgerTotals {
	v := &LedgerTotals{Made: t.Accepted + t.Replayed}
	if made {
		v.Accepted, v.Replayed = &t.Accepted, &t.Replayed
	}
	if ended {
		v.InFlight, v.Delivered, v.Failed, v.DeadLetter, v.Canceled = new(t.InFlight()), &t.Delivered, &t.Failed, &t.DeadLetter, &t.Canceled
	}
	return v
}

func viewLedgerAccount(a *manage.LedgerAccount) LedgerAccount {
	v := LedgerAccount{TenantID: a.TenantID, Store: *viewTotals(a.Told, true, true)}
	tenants := a.EndpointID.IsZero()
	if !tenants {
		v.EndpointID = &a.EndpointID
	}
	if a.Unbooked != nil {
		v.Unbooked = viewTotals(*a.Unbooked, true, true)
	}
	if r := a.Report; r != nil {
		v.Books, v.Expected = viewTotals(r.Books, tenants, !tenants), viewTotals(r.Cut, tenants, !tenants)
		v.Difference, v.ReportedAt = viewTotals(r.Books.Minus(r.Cut), tenants, !tenants), new(timestamp(r.At))
	} else {
		v.ErrorCode = new(kapsel.LedgerUnavailable)
	}
	return v
}

// ConflictsQuery is a page of conflicts.
type ConflictsQuery struct {
	TenantID kapsel.TenantID `query:"tenant_id" doc:"Only of this tenant; with the admin key only"`
	Limit    int             `query:"limit" default:"50" minimum:"1" maximum:"200" doc:"How many to return at most"`
	Cursor   string          `query:"cursor" doc:"next_cursor of the page before"`
}

func (a *api) listLedgerConflicts(ctx context.Context, in *ConflictsQuery) (*out[list[LedgerConflict]], error) {
	after := int64(0)
	if in.Cursor != "" {
		var err error
		if after, err = strconv.ParseInt(in.Cursor, 10, 64); err != nil || after < 0 {
			return nil, errCursor
		}
	}
	page, err := a.Manage.LedgerConflicts(ctx, callerOf(ctx), in.TenantID, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	v := list[LedgerConflict]{Data: []LedgerConflict{}}
	if len(page) > in.Limit {
		page = page[:in.Limit]
		v.NextCursor = new(strconv.FormatInt(page[in.Limit-1].Number, 10))
	}
	for _, c := range page {
		v.Data = append(v.Data, LedgerConflict{viewFact(c.Fact), c.Answer, timestamp(c.At)})
	}
	return answer(v), nil
}

// LedgerConflict is a fact on which the books and the store do not agree.
type LedgerConflict struct {
	LedgerFact
	Answer  string    `json:"answer" doc:"What the books answered, in TigerBeetle's words; not_booked, or not_in_store"`
	FoundAt timestamp `json:"found_at" doc:"When it was first found"`
}

// LedgerFact is that a delivery was made or ended.
type LedgerFact struct {
	Kind       string            `json:"kind" enum:"accepted,replayed,delivered,failed,dead_letter,canceled" doc:"Whether the delivery was made (accepted, replayed) or how it ended"`
	DeliveryID kapsel.DeliveryID `json:"delivery_id"`
	EventID    kapsel.EventID    `json:"event_id"`
	EndpointID kapsel.EndpointID `json:"endpoint_id"`
	TenantID   kapsel.TenantID   `json:"tenant_id"`
	At         string            `json:"at" format:"date-time" doc:"When, to the microsecond"`
}

const factTime = "2006-01-02T15:04:05.000000Z07:00"

func viewFact(f kapsel.Fact) LedgerFact {
	return LedgerFact{f.Kind.String(), f.DeliveryID, f.EventID, f.EndpointID, f.TenantID, f.At.UTC().Format(factTime)}
}

// fact returns the fact, or what is wrong with it.
func (v LedgerFact) fact(name string) (f kapsel.Fact, wrong []kapsel.FieldError) {
	f = kapsel.Fact{DeliveryID: v.DeliveryID, EventID: v.EventID, EndpointID: v.EndpointID, TenantID: v.TenantID}
	if f.Kind.UnmarshalText([]byte(v.Kind)) != nil {
		wrong = append(wrong, field(name+".kind", "is no kind of fact")...)
	}
	at, err := time.Parse(time.RFC3339Nano, v.At)
	if f.At = at.UTC(); err != nil || at.Year() < 1970 || at.Year() > 9999 {
		wrong = append(wrong, field(name+".at", "is no time")...)
	}
	if f.DeliveryID.IsZero() || f.EventID.IsZero() || f.EndpointID.IsZero() || f.TenantID.IsZero() {
		wrong = append(wrong, field(name, "needs delivery_id, event_id, endpoint_id and tenant_id")...)
	}
	return f, wrong
}

// BookerQuery is who books.
type BookerQuery struct {
	Booker string `query:"booker" maxLength:"200" doc:"Who books: a name that each process makes for itself, so that one books at a time"`
}

func (q BookerQuery) booker() manage.Booker { return manage.Booker(q.Booker) }

// EntriesQuery is which entries are wanted.
type EntriesQuery struct {
	BookerQuery
	Limit      int               `query:"limit" default:"200" minimum:"1" maximum:"200" doc:"How many to return at most"`
	Wait       int               `query:"wait" minimum:"0" maximum:"20" doc:"How many seconds to wait for an entry if there is none"`
	EndpointID kapsel.EndpointID `query:"endpoint_id" doc:"Instead: the facts of this endpoint's deliveries, booked or not, newest first, in entries without an id; limit counts deliveries"`
	Cursor     string            `query:"cursor" doc:"With endpoint_id: next_cursor of the page before"`
	DeliveryID kapsel.DeliveryID `query:"delivery_id" doc:"Instead: the facts of this delivery, booked or not, in an entry without an id; none if there is no such delivery"`
}

func (a *api) listLedgerEntries(ctx context.Context, in *EntriesQuery) (*out[list[LedgerEntry]], error) {
	v := list[LedgerEntry]{Data: []LedgerEntry{}}
	if !in.EndpointID.IsZero() {
		page := store.Page[kapsel.DeliveryID]{Limit: in.Limit}
		if in.Cursor != "" {
			before, err := a.openCursor(callOf(ctx), in.Cursor)
			if err != nil {
				return nil, err
			}
			page.Before = before
		}
		facts, next, err := a.Manage.LedgerFacts(ctx, callerOf(ctx), in.booker(), in.EndpointID, page)
		if err != nil {
			return nil, err
		}
		if v.Data = append(v.Data, LedgerEntry{nil, mapped(facts, viewFact)}); !next.IsZero() {
			v.NextCursor = new(a.cursor(callOf(ctx), next))
		}
		return answer(v), nil
	}
	if !in.DeliveryID.IsZero() {
		facts, err := a.Manage.LedgerFactsOf(ctx, callerOf(ctx), in.booker(), in.DeliveryID)
		if err == nil && len(facts) > 0 {
			v.Data = append(v.Data, LedgerEntry{nil, mapped(facts, viewFact)})
		}
		return answer(v), err
	}
	entries, err := a.Manage.LedgerEntries(ctx, callerOf(ctx), in.booker(), in.Limit, time.Duration(in.Wait)*time.Second)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		v.Data = append(v.Data, LedgerEntry{&e.ID, mapped(e.Facts, viewFact)})
	}
	return answer(v), nil
}

// LedgerEntry is what one transaction told.
type LedgerEntry struct {
	ID    *kapsel.EntryID `json:"id" nullable:"true" doc:"By which it is acknowledged; null: it is not in the outbox"`
	Facts []LedgerFact    `json:"facts" doc:"What the transaction told"`
}

// mostConflicts is how many conflicts or accounts one request may have.
const mostConflicts = 200

// Acknowledgement says which entries were booked.
type Acknowledgement struct {
	IDs       []kapsel.EntryID `json:"ids" maxItems:"1000" doc:"Of entries all of whose facts were booked, or are in conflicts"`
	Conflicts []FoundConflict  `json:"conflicts,omitempty" maxItems:"200" doc:"Facts that the books do not take as they are"`
}

// FoundConflict is a fact that the books do not have as the store has it, or the other way round.
type FoundConflict struct {
	LedgerFact
	Answer string `json:"answer" minLength:"1" maxLength:"200" doc:"What the books answered"`
}

func (a *api) acknowledgeLedger(ctx context.Context, in *BookerQuery) (*struct{}, error) {
	var body Acknowledgement
	if err := read(ctx, &body); err != nil {
		return nil, err
	}
	conflicts, wrong := foundConflicts("conflicts", body.Conflicts)
	switch {
	case body.IDs == nil:
		wrong = append(wrong, field("ids", "is missing; it may be []")...)
	case len(body.IDs) > 1000:
		wrong = append(wrong, field("ids", "has more than 1000")...)
	}
	if wrong != nil {
		return nil, refused(wrong)
	}
	return nil, a.Manage.Acknowledge(ctx, callerOf(ctx), in.booker(), body.IDs, conflicts)
}

// foundConflicts returns conflicts, or what is wrong with them.
func foundConflicts(name string, all []FoundConflict) (conflicts []store.BookConflict, wrong []kapsel.FieldError) {
	if len(all) > mostConflicts {
		return nil, field(name, "has more than 200")
	}
	for i, c := range all {
		at := name + "[" + strconv.Itoa(i) + "]"
		f, bad := c.fact(at)
		if wrong = append(wrong, bad...); c.Answer == "" || len(c.Answer) > 200 || strings.ContainsFunc(c.Answer, unicode.IsControl) {
			wrong = append(wrong, field(at+".answer", "must have 1 to 200 characters, none of them a control character")...)
		}
		conflicts = append(conflicts, store.BookConflict{Fact: f, Answer: c.Answer})
	}
	return conflicts, wrong
}

// BooksReport is what the books say.
type BooksReport struct {
	Accounts    []ReportedAccount `json:"accounts" maxItems:"200" doc:"Of tenants and endpoints whose books were compared"`
	Differences []FoundConflict   `json:"differences,omitempty" maxItems:"200" doc:"Facts on which books and store differ"`
}

// ReportedAccount compares the books of an owner with the store.
type ReportedAccount struct {
	TenantID   kapsel.TenantID    `json:"tenant_id"`
	EndpointID *kapsel.EndpointID `json:"endpoint_id,omitempty" nullable:"true" doc:"Null: the tenant's own"`
	Books      ReportedTotals     `json:"books" doc:"What the books say"`
	Expected   ReportedTotals     `json:"expected" doc:"What they should say: store without unbooked, between two equal readings of the books"`
}

// ReportedTotals are totals as an account of the books has them: of an endpoint, accepted is all that was
// made; of a tenant there is accepted and replayed only.
type ReportedTotals struct {
	Accepted   int64 `json:"accepted,omitempty" doc:"Of an endpoint: all that was made"`
	Replayed   int64 `json:"replayed,omitempty" doc:"Of a tenant"`
	Delivered  int64 `json:"delivered,omitempty" doc:"Of an endpoint, as the next three"`
	Failed     int64 `json:"failed,omitempty" doc:"Refused by the destination"`
	DeadLetter int64 `json:"dead_letter,omitempty" doc:"Out of attempts"`
	Canceled   int64 `json:"canceled,omitempty" doc:"Canceled by a person, or with the endpoint"`
}

// countable reports whether all numbers are so small that sums and differences of them are exact everywhere.
// A difference may be below 0.
func (t ReportedTotals) countable() bool {
	const most = 1 << 52
	for _, n := range [...]int64{t.Accepted, t.Replayed, t.Delivered, t.Failed, t.DeadLetter, t.Canceled} {
		if n > most || n < -most {
			return false
		}
	}
	return true
}

func (a *api) reportBooks(ctx context.Context, in *BookerQuery) (*struct{}, error) {
	var body BooksReport
	if err := read(ctx, &body); err != nil {
		return nil, err
	}
	differences, wrong := foundConflicts("differences", body.Differences)
	switch {
	case body.Accounts == nil:
		wrong = append(wrong, field("accounts", "is missing; it may be []")...)
	case len(body.Accounts) > mostConflicts:
		wrong = append(wrong, field("accounts", "has more than 200")...)
	}
	var reports []store.BookReport
	for i, r := range body.Accounts {
		owner := store.Owner{TenantID: r.TenantID}
		if r.EndpointID != nil {
			owner.EndpointID = *r.EndpointID
		}
		at := "accounts[" + strconv.Itoa(i) + "]"
		if owner.TenantID.IsZero() {
			wrong = append(wrong, field(at+".tenant_id", "is missing")...)
		}
		if !r.Books.countable() {
			wrong = append(wrong, field(at+".books", "has a number that no count can be")...)
		}
		if !r.Expected.countable() {
			wrong = append(wrong, field(at+".expected", "has a number that no count can be")...)
		}
		reports = append(reports, store.BookReport{Owner: owner, Books: kapsel.FactTotals(r.Books), Cut: kapsel.FactTotals(r.Expected)})
	}
	if wrong != nil {
		return nil, refused(wrong)
	}
	return nil, a.Manage.ReportBooks(ctx, callerOf(ctx), in.booker(), reports, differences)
}
