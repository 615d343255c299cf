package ledger_test

import (
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/ledger"
	"github.com/kapsel-hq/kapsel/internal/ledger/ledgertest"
)

func parse[ID any, P interface {
	*ID
	UnmarshalText([]byte) error
}](t *testing.T, text string) (id ID) {
	t.Helper()
	if err := P(&id).UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return id
}

// TestMapping compares the mapping with numbers that were written by hand from its table.
func TestMapping(t *testing.T) {
	uuid := func(last byte) (id [16]byte) {
		copy(id[:], "\x01\x98\x7a\x6b\x5c\x4d\x7e\xff\x80\x11\x22\x33\x44\x55\x66")
		id[15] = last
		return id
	}
	number := func(nibble, last string) string { return "01987a6b5c4d" + nibble + "eff8011223344556" + "6" + last }
	tenant, endpoint, event, delivery := kapsel.TenantID(uuid(0xa1)), kapsel.EndpointID(uuid(0xb2)), kapsel.EventID(uuid(0xc3)), kapsel.DeliveryID(uuid(0xd4))
	at := time.UnixMicro(1_700_000_000_123_456).UTC()

	for _, c := range []struct {
		got  []ledger.Account
		want []string // nibble and code
		last string
	}{
		{ledger.TenantAccounts(tenant), []string{"1 101", "8 108"}, "a1"},
		{ledger.EndpointAccounts(endpoint), []string{"2 102", "3 103", "4 104", "5 105", "6 106"}, "b2"},
	} {
		if len(c.got) != len(c.want) {
			t.Fatalf("accounts are %v, want %v", c.got, c.want)
		}
		for i, a := range c.got {
			nibble, code, _ := strings.Cut(c.want[i], " ")
			if a.ID.String() != number(nibble, c.last) || code != strconv.Itoa(int(a.Code)) || a.Owner.String() != number("7", c.last) {
				t.Errorf("account %d is %s of %s with code %d, want nibble and code %s", i, a.ID, a.Owner, a.Code, c.want[i])
			}
		}
	}
	for _, c := range []struct {
		kind                  kapsel.FactKind
		id, debit, credit     string
		code                  uint16
		debitLast, creditLast string
	}{
		{kapsel.FactAccepted, "7", "1", "2", 1, "a1", "b2"},
		{kapsel.FactReplayed, "7", "8", "2", 2, "a1", "b2"},
		{kapsel.FactDelivered, "8", "2", "3", 13, "b2", "b2"},
		{kapsel.FactFailed, "8", "2", "4", 14, "b2", "b2"},
		{kapsel.FactDeadLetter, "8", "2", "5", 15, "b2", "b2"},
		{kapsel.FactCanceled, "8", "2", "6", 16, "b2", "b2"},
	} {
		f := kapsel.Fact{Kind: c.kind, DeliveryID: delivery, EventID: event, EndpointID: endpoint, TenantID: tenant, At: at}
		got := ledger.TransferOf(&f)
		if got.ID.String() != number(c.id, "d4") || got.Debit.String() != number(c.debit, c.debitLast) || got.Credit.String() != number(c.credit, c.creditLast) ||
			got.Code != c.code || got.Event.String() != number("7", "c3") || got.At != 1_700_000_000_123_456 || got.Version != 1 {
			t.Errorf("%s: %+v", c.kind, got)
		}
		if ledger.DeliveryOf(got.ID) != delivery {
			t.Errorf("%s: the transfer's delivery is %s", c.kind, ledger.DeliveryOf(got.ID))
		}
	}
}

// TestFactsOfDeliveries checks which facts the domain makes of deliveries.
func TestFactsOfDeliveries(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	d := kapsel.Delivery{ID: kapsel.NewDeliveryID(now, 1), EventID: kapsel.NewEventID(now, 1), EndpointID: kapsel.NewEndpointID(now), TenantID: kapsel.NewTenantID(now), CreatedAt: now, FinishedAt: now.Add(time.Second)}
	want := kapsel.Fact{Kind: kapsel.FactAccepted, DeliveryID: d.ID, EventID: d.EventID, EndpointID: d.EndpointID, TenantID: d.TenantID, At: d.CreatedAt}
	if got := kapsel.MadeFact(&d); got != want {
		t.Errorf("made: %+v", got)
	}
	d.ReplayOf = kapsel.NewDeliveryID(now, 1)
	if want.Kind = kapsel.FactReplayed; kapsel.MadeFact(&d) != want {
		t.Errorf("replayed: %+v", kapsel.MadeFact(&d))
	}
	want.At = d.FinishedAt
	for status, kind := range map[kapsel.DeliveryStatus]kapsel.FactKind{
		kapsel.Delivered: kapsel.FactDelivered, kapsel.Failed: kapsel.FactFailed, kapsel.DeadLetter: kapsel.FactDeadLetter, kapsel.Canceled: kapsel.FactCanceled,
	} {
		d.Status, want.Kind = status, kind
		if got := kapsel.EndFact(&d); got != want || kind.Made() {
			t.Errorf("%s: %+v", status, got)
		}
	}
	for kind, name := range map[kapsel.FactKind]string{1: "accepted", 2: "replayed", 13: "delivered", 14: "failed", 15: "dead_letter", 16: "canceled"} {
		text, err := kind.MarshalText()
		if string(text) != name || err != nil || parse[kapsel.FactKind](t, name) != kind {
			t.Errorf("kind %d is %q, error %v", kind, text, err)
		}
	}
	if _, err := kapsel.FactKind(3).MarshalText(); err == nil {
		t.Error("3 is a kind")
	}
	if new(kapsel.FactKind).UnmarshalText([]byte("lost")) == nil {
		t.Error("lost is a kind")
	}
}

// TestAnswers runs the table of answers against the fake.
func TestAnswers(t *testing.T) { ledgertest.CheckAnswers(t, ledgertest.NewFake()) }

// TestOrderNeverMatters books the transfers of some deliveries again and again in any order, in calls
// of any size, and compares the books with those in which each was booked once, in order.
func TestOrderNeverMatters(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	random := rand.New(rand.NewPCG(1, 2))
	tenant := kapsel.NewTenantID(now)
	accounts := ledger.TenantAccounts(tenant)
	var endpoints []kapsel.EndpointID
	for range 3 {
		e := kapsel.NewEndpointID(now)
		endpoints, accounts = append(endpoints, e), append(accounts, ledger.EndpointAccounts(e)...)
	}
	var transfers []ledger.Transfer
	for i := range 60 {
		f := kapsel.Fact{Kind: kapsel.FactKind(1 + i%2), DeliveryID: kapsel.NewDeliveryID(now, 3), EventID: kapsel.NewEventID(now, 3), EndpointID: endpoints[i%3], TenantID: tenant, At: now}
		transfers = append(transfers, ledger.TransferOf(&f))
		if f.Kind, f.At = kapsel.FactKind(13+i%5), now.Add(time.Minute); f.Kind <= kapsel.FactCanceled { // some are in flight
			transfers = append(transfers, ledger.TransferOf(&f))
		}
	}
	book := func(books ledger.Books, transfers []ledger.Transfer) {
		t.Helper()
		answers, err := books.CreateTransfers(t.Context(), transfers)
		if err != nil {
			t.Fatal(err)
		}
		for i, a := range answers {
			if !a.OK() {
				t.Fatalf("%+v: %s", transfers[i], a)
			}
		}
	}
	inOrder := ledgertest.NewFake()
	if _, err := inOrder.CreateAccounts(t.Context(), accounts); err != nil {
		t.Fatal(err)
	}
	book(inOrder, transfers)
	wantBalances, wantTransfers := inOrder.All()
	for range 50 {
		books := ledgertest.NewFake()
		if _, err := books.CreateAccounts(t.Context(), accounts); err != nil {
			t.Fatal(err)
		}
		again := append(append([]ledger.Transfer{}, transfers...), transfers...)
		random.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
		for len(again) > 0 {
			n := 1 + random.IntN(len(again))
			book(books, again[:n])
			again = again[n:]
		}
		gotBalances, gotTransfers := books.All()
		if !reflect.DeepEqual(gotBalances, wantBalances) || !reflect.DeepEqual(gotTransfers, wantTransfers) {
			t.Fatal("the books depend on the order")
		}
	}
}
