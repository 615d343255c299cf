package kapsel_test

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
)

func TestSubscription_Matches(t *testing.T) {
	for _, tt := range []struct {
		patterns, channels string // of the subscription
		eventType, has     string // of the event
		want               bool
	}{
		{"", "", "", "", true},
		{"", "", "invoice.paid", "c", true},
		{"invoice.paid", "", "invoice.paid", "", true},
		{"invoice.paid", "", "invoice.paid.late", "", false},
		{"invoice.paid", "", "invoice", "", false},
		{"invoice.paid", "", "", "", false},
		{"invoice.*", "", "invoice.paid", "", true},
		{"invoice.*", "", "invoice.paid.late", "", true},
		{"invoice.*", "", "invoice", "", false},
		{"invoice.*", "", "invoice.", "", false},
		{"invoice.*", "", "invoices.paid", "", false},
		{"order.* invoice.paid", "", "invoice.paid", "", true},
		{"orders/create", "", "orders/create", "", true},
		{"", "a", "", "", false},
		{"", "a", "x", "a", true},
		{"", "a b", "x", "c b", true},
		{"x", "a", "x", "b", false},
		{"x", "a", "y", "a", false},
		{"x.*", "a", "x.y", "a", true},
	} {
		s := kapsel.Subscription{EventTypes: strings.Fields(tt.patterns), Channels: strings.Fields(tt.channels)}
		if got := s.Matches(tt.eventType, strings.Fields(tt.has)); got != tt.want {
			t.Errorf("%+v: type %q, channels %q: %v", s, tt.eventType, tt.has, got)
		}
		if s.All() && !tt.want {
			t.Errorf("%+v lets all through, and not this", s)
		}
	}
}

func TestSubscription_Origin(t *testing.T) {
	now := time.Now()
	tenant, endpoint := kapsel.NewTenantID(now), kapsel.NewEndpointID(now)
	source := kapsel.SourceID(endpoint)
	for text, want := range map[string]kapsel.OriginID{
		"publish":           kapsel.OriginID(tenant),
		endpoint.String():   kapsel.OriginID(endpoint),
		source.String():     kapsel.OriginID(endpoint), // one UUID, one origin
		"":                  {},
		"Publish":           {},
		"publish_":          {},
		"src_":              {},
		tenant.String():     {},
		source.String()[:8]: {},
	} {
		if got := (&kapsel.Subscription{Source: text}).Origin(kapsel.OriginID(tenant)); got != want {
			t.Errorf("%q is the origin %x, want %x", text, got, want)
		}
	}
	e := kapsel.Endpoint{TenantID: tenant}
	e.Subscriptions = []kapsel.Subscription{{Source: "publish", EventTypes: []string{"a"}}, {Source: "publish", EventTypes: []string{"b.*"}}, {Source: source.String()}}
	published, cameIn := kapsel.OriginID(tenant), kapsel.OriginID(source)
	if !e.Wants(published, "a", nil) || !e.Wants(published, "b.c", nil) || e.Wants(published, "c", nil) || !e.Wants(cameIn, "c", nil) || e.Wants(kapsel.OriginID{1}, "a", nil) {
		t.Error("an endpoint wants other events than it subscribes to")
	}
	if e.WantsAll(published) || !e.WantsAll(cameIn) || !e.Subscribes(published) || e.Subscribes(kapsel.OriginID{1}) {
		t.Error("an endpoint subscribes to something else")
	}
	app := kapsel.NewAppID(now)
	e.AppID = app
	if e.Subscribes(published) || !e.Wants(kapsel.OriginID(app), "a", nil) || e.Wants(kapsel.OriginID(app), "c", nil) {
		t.Error("an endpoint of an app gets other events than the app's")
	}
}

func TestValidate_Subscriptions(t *testing.T) {
	source := kapsel.NewSourceID(time.Now()).String()
	for _, tt := range []struct {
		name   string
		change func(*kapsel.Subscription)
		want   string
	}{
		{"as it is", func(*kapsel.Subscription) {}, ""},
		{"published", func(s *kapsel.Subscription) { s.Source = kapsel.Publish }, ""},
		{"types", func(s *kapsel.Subscription) { s.EventTypes = []string{"a", "a.*", "a.b.*", "orders/create", "a-b_C.1"} }, ""},
		{"channels", func(s *kapsel.Subscription) { s.Channels = []string{"a", "project_1.x-Y"} }, ""},
		{"no source", func(s *kapsel.Subscription) { s.Source = "" }, "subscriptions[0].source"},
		{"another id", func(s *kapsel.Subscription) { s.Source = "app_" + source[4:] }, "subscriptions[0].source"},
		{"upper case", func(s *kapsel.Subscription) { s.Source = strings.ToUpper(source) }, "subscriptions[0].source"},
		{"stars", func(s *kapsel.Subscription) {
			s.EventTypes = []string{"*", ".*", "a*", "*.a", "a.*.b", "a.**", "a.*.*", "x"}
		},
			"subscriptions[0].event_types[0] subscriptions[0].event_types[1] subscriptions[0].event_types[2] subscriptions[0].event_types[3] " +
				"subscriptions[0].event_types[4] subscriptions[0].event_types[5] subscriptions[0].event_types[6]"},
		{"no types", func(s *kapsel.Subscription) {
			s.EventTypes = []string{"", "a b", "é", "a\n", strings.Repeat("a", 256)}
		},
			"subscriptions[0].event_types[0] subscriptions[0].event_types[1] subscriptions[0].event_types[2] subscriptions[0].event_types[3] subscriptions[0].event_types[4]"},
		{"too many types", func(s *kapsel.Subscription) { s.EventTypes = make([]string, 201) }, "subscriptions[0].event_types"},
		{"no channels", func(s *kapsel.Subscription) { s.Channels = []string{"", "a b", "a/b", strings.Repeat("a", 129)} },
			"subscriptions[0].channels[0] subscriptions[0].channels[1] subscriptions[0].channels[2] subscriptions[0].channels[3]"},
		{"too many channels", func(s *kapsel.Subscription) { s.Channels = make([]string, 11) }, "subscriptions[0].channels"},
	} {
		c := kapsel.DefaultEndpoint()
		c.Name, c.URL = "a", "https://example.com"
		c.Subscriptions = []kapsel.Subscription{{Source: source}}
		tt.change(&c.Subscriptions[0])
		var got []string
		for _, f := range c.Validate(false) {
			got = append(got, f.Field)
		}
		if got := strings.Join(got, " "); got != tt.want {
			t.Errorf("%s: fields %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestSource_Validate(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*kapsel.Source)
		want   string
	}{
		{"as it is", func(*kapsel.Source) {}, ""},
		{"header", func(s *kapsel.Source) { s.Type = kapsel.TypeRule{From: "header:X-Shopify-Topic"} }, ""},
		{"path", func(s *kapsel.Source) { s.Type = kapsel.TypeRule{From: `path:$.event["type"]`} }, ""},
		{"const", func(s *kapsel.Source) { s.Type = kapsel.TypeRule{From: "const", Value: "orders/create"} }, ""},
		{"const without a value", func(s *kapsel.Source) { s.Type = kapsel.TypeRule{From: "const"} }, "type.value"},
		{"const with a space", func(s *kapsel.Source) { s.Type = kapsel.TypeRule{From: "const", Value: "a b"} }, "type.value"},
		{"a value for a header", func(s *kapsel.Source) { s.Type = kapsel.TypeRule{From: "header:X", Value: "a"} }, "type.value"},
		{"a value alone", func(s *kapsel.Source) { s.Type = kapsel.TypeRule{Value: "a"} }, "type.value type.from"},
		{"no header", func(s *kapsel.Source) { s.Type = kapsel.TypeRule{From: "header:"} }, "type.from"},
		{"no name of a header", func(s *kapsel.Source) { s.Type = kapsel.TypeRule{From: "header:a b"} }, "type.from"},
		{"something else", func(s *kapsel.Source) { s.Type = kapsel.TypeRule{From: "query:type"} }, "type.from"},
		{"name", func(s *kapsel.Source) { s.Name = " " }, "name"},
		{"state", func(s *kapsel.Source) { s.State = "paused" }, "state"},
		{"idempotency", func(s *kapsel.Source) { s.Idempotency.Window = 0 }, "idempotency.window"},
		{"response", func(s *kapsel.Source) { s.Response = &kapsel.Response{Status: 500, ContentType: "none"} }, "response.status"},
	} {
		s := kapsel.Source{State: kapsel.SourceActive, SourceConfig: kapsel.DefaultSource()}
		s.Name = "shop"
		tt.change(&s)
		var got []string
		for _, f := range s.Validate() {
			got = append(got, f.Field)
		}
		if got := strings.Join(got, " "); got != tt.want {
			t.Errorf("%s: fields %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestEvent_Extra checks that an event survives the two columns in which stores keep some of its
// fields.
func TestEvent_Extra(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Now()
		e := kapsel.Event{TenantID: kapsel.NewTenantID(now)}
		switch rapid.IntRange(0, 2).Draw(t, "origin") {
		case 0:
			e.EndpointID = kapsel.NewEndpointID(now)
		case 1:
			e.SourceID = kapsel.NewSourceID(now)
		case 2:
			e.Channels = rapid.SliceOf(rapid.String()).Draw(t, "channels")
			if len(e.Channels) == 0 {
				e.Channels = nil
			}
			e.OrderingKey = rapid.String().Draw(t, "ordering key")
			if at := rapid.Int64Range(0, 1<<52).Draw(t, "deliver at"); at > 0 {
				e.DeliverAt = time.UnixMicro(at).UTC()
			}
			if rapid.Bool().Draw(t, "of an app") {
				e.AppID = kapsel.NewAppID(now)
			}
		}
		got := kapsel.Event{TenantID: e.TenantID, AppID: e.AppID} // an app has a column of its own
		if err := got.SetExtra(e.Origin(), e.Extra()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e, got); diff != "" {
			t.Fatal(diff)
		}
		if !e.EndpointID.IsZero() && e.Extra() != nil {
			t.Fatalf("an endpoint's event has the extra %s", e.Extra())
		}
		if (e.OrderingKey == "" && e.AppID.IsZero()) != (e.KeyScope() == e.Origin()) {
			t.Fatalf("the scope is %x, the origin %x, the ordering key %q", e.KeyScope(), e.Origin(), e.OrderingKey)
		}
	})
	e := kapsel.Event{TenantID: kapsel.TenantID{1}, OrderingKey: "a"}
	other := e
	other.OrderingKey = "b"
	if e.KeyScope() == other.KeyScope() {
		t.Error("two ordering keys have one scope")
	}
}

// TestEvent_KeyScope checks that the scope of a key never changes, because stored rows and IDs hold
// it, and that an app has a scope of its own.
func TestEvent_KeyScope(t *testing.T) {
	tenant, app := kapsel.TenantID{0x01, 0x9b, 0x6a, 15: 0x07}, kapsel.AppID{0x01, 0x9b, 0x6b, 15: 0x08}
	for _, tt := range []struct {
		e    kapsel.Event
		want string
	}{
		{kapsel.Event{}, "019b6a00000000000000000000000007"},
		{kapsel.Event{OrderingKey: "o"}, "823fbe00fdac9e6c6e2c8f0bd213f20a"},
		{kapsel.Event{AppID: app}, "75488ead50dc1f0eb6bf2c2927b81d35"},
		{kapsel.Event{AppID: app, OrderingKey: "o"}, "67c9ea0e4dff9fb6f5177f83c2e4422a"},
	} {
		tt.e.TenantID = tenant
		scope := tt.e.KeyScope()
		if got := hex.EncodeToString(scope[:]); got != tt.want {
			t.Errorf("the scope of app %v and ordering key %q is %s, want %s", tt.e.AppID, tt.e.OrderingKey, got, tt.want)
		}
	}
}
