package booker

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/client"
	"github.com/kapsel-hq/kapsel/internal/ledger"
	"github.com/kapsel-hq/kapsel/internal/ledger/ledgertest"
)

// instance answers as Kapsel does to a booker: it makes a delivery whenever its outbox or its deliveries are
// read, so that something to book always waits.
type instance struct {
	mu       sync.Mutex
	tenant   kapsel.TenantID
	endpoint kapsel.EndpointID
	made     []kapsel.Fact
	booked   int // of made
	reports  chan client.BooksReport
}

func (k *instance) make() {
	at := time.Now().UTC().Truncate(time.Microsecond)
	part := kapsel.PartOf(k.endpoint)
	k.made = append(k.made, kapsel.Fact{
		Kind: kapsel.FactAccepted, DeliveryID: kapsel.NewDeliveryID(at, part), EventID: kapsel.NewEventID(at, part), EndpointID: k.endpoint, TenantID: k.tenant, At: at,
	})
}

func (k *instance) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	facts := func(some []kapsel.Fact) (all []map[string]any) {
		for _, f := range some {
			all = append(all, map[string]any{"kind": f.Kind.String(), "delivery_id": f.DeliveryID, "event_id": f.EventID, "endpoint_id": f.EndpointID, "tenant_id": f.TenantID, "at": f.At})
		}
		return all
	}
	totals := func(n int) map[string]any { return map[string]any{"made": n, "accepted": n, "replayed": 0} }
	answer := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	switch path := r.URL.Path; {
	case path == "/v1/ledger/entries" && r.URL.Query().Get("delivery_id") != "":
		all := []any{}
		for i, f := range k.made {
			if f.DeliveryID.String() == r.URL.Query().Get("delivery_id") {
				all = append(all, map[string]any{"id": nil, "facts": facts(k.made[i : i+1])})
			}
		}
		answer(map[string]any{"data": all})
	case path == "/v1/ledger/entries" && r.URL.Query().Get("endpoint_id") != "":
		answer(map[string]any{"data": []any{map[string]any{"id": nil, "facts": facts(k.made)}}})
		k.make() // behind the walk
	case path == "/v1/ledger/entries":
		all := []any{}
		if k.booked == len(k.made) && len(k.made)%5 != 0 {
			k.make()
		}
		if k.booked < len(k.made) {
			all = append(all, map[string]any{"id": "len_" + strings.Repeat("0", 26), "facts": facts(k.made[k.booked:])})
		}
		answer(map[string]any{"data": all})
	case path == "/v1/ledger/acknowledgements":
		k.booked = len(k.made)
		w.WriteHeader(http.StatusNoContent)
	case path == "/v1/ledger/reports" && r.Method == http.MethodGet:
		answer(map[string]any{"data": []any{map[string]any{
			"tenant_id": k.tenant, "endpoint_id": k.endpoint, "store": totals(len(k.made)), "unbooked": totals(len(k.made) - k.booked),
		}}})
	case path == "/v1/ledger/reports":
		var report client.BooksReport
		_ = json.NewDecoder(r.Body).Decode(&report)
		select {
		case k.reports <- report:
		default:
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusTeapot)
	}
}

func newBooker(t *testing.T) (*instance, *Booker, *ledgertest.Fake) {
	t.Helper()
	now := time.Now()
	k := &instance{tenant: kapsel.NewTenantID(now), endpoint: kapsel.NewEndpointID(now), reports: make(chan client.BooksReport, 10)}
	k.make()
	server := httptest.NewServer(k)
	t.Cleanup(server.Close)
	api, err := client.New(server.URL, strings.Repeat("k", 40))
	if err != nil {
		t.Fatal(err)
	}
	books := ledgertest.NewFake()
	return k, New(Config{
		API: api, Name: "test", Every: time.Millisecond, Log: slog.New(slog.DiscardHandler),
		Open: func(context.Context) (ledger.Books, error) { return books, nil },
	}), books
}

// TestCompare_UnderLoad checks that a booker that always has something to book compares all the same.
func TestCompare_UnderLoad(t *testing.T) {
	k, b, _ := newBooker(t)
	compared := time.Time{}
	for range 3 {
		if err := b.turn(t.Context(), &compared); err != nil {
			t.Fatal(err)
		}
	}
	if len(k.reports) == 0 || compared.IsZero() {
		t.Error("nothing is compared while there is something to book")
	}
}

// TestName_UnderLoad checks that of the transfers that the books have too many the right one is named, though
// deliveries are made and booked behind the walk.
func TestName_UnderLoad(t *testing.T) {
	k, b, books := newBooker(t)
	if _, err := b.Book(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	lost := k.made[0]
	lost.DeliveryID = kapsel.NewDeliveryID(lost.At, kapsel.PartOf(k.endpoint))
	if answers, err := books.CreateTransfers(t.Context(), []ledger.Transfer{ledger.TransferOf(&lost)}); err != nil || !answers[0].OK() {
		t.Fatal(answers, err)
	}
	if err := b.Compare(t.Context()); err != nil {
		t.Fatal(err)
	}
	named := (<-k.reports).Differences
	if len(named) != 1 || named[0].DeliveryID != lost.DeliveryID.String() || named[0].Answer != "not_in_store" {
		t.Errorf("named are %+v, and not %s", named, lost.DeliveryID)
	}
}
