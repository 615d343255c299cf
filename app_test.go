package kapsel_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
)

func TestApp_Validate(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		what   string
		change func(*kapsel.App)
		want   string // fields; "" when nothing is wrong
	}{
		{"a name", func(*kapsel.App) {}, ""},
		{"no name", func(a *kapsel.App) { a.Name = " " }, "name"},
		{"a uid", func(a *kapsel.App) { a.UID = "Acme-1._x" }, ""},
		{"a uid of 255", func(a *kapsel.App) { a.UID = strings.Repeat("a", 255) }, ""},
		{"a uid of 256", func(a *kapsel.App) { a.UID = strings.Repeat("a", 256) }, "uid"},
		{"a uid with a slash", func(a *kapsel.App) { a.UID = "a/b" }, "uid"},
		{"a uid that is no path", func(a *kapsel.App) { a.UID = ".." }, "uid"},
		{"the id of an app", func(a *kapsel.App) { a.UID = kapsel.NewAppID(now).String() }, "uid"},
		{"the id of an endpoint", func(a *kapsel.App) { a.UID = kapsel.NewEndpointID(now).String() }, "uid"},
		{"an id of another kind", func(a *kapsel.App) { a.UID = "customer_01hf6b2z6ye0ar00000000000a" }, "uid"},
		{"a prefix alone", func(a *kapsel.App) { a.UID = "app_1" }, ""},
		{"a rate", func(a *kapsel.App) { a.RateLimit = &kapsel.RateLimit{PerSecond: 1, Burst: 1} }, ""},
		{"no rate", func(a *kapsel.App) { a.RateLimit = &kapsel.RateLimit{} }, "rate_limit.per_second rate_limit.burst"},
		{"metadata", func(a *kapsel.App) { a.Metadata = map[string]string{"plan": "gold\n"} }, ""},
		{"metadata without a name", func(a *kapsel.App) { a.Metadata = map[string]string{"": "x"} }, "metadata"},
		{"metadata with a long name", func(a *kapsel.App) { a.Metadata = map[string]string{strings.Repeat("a", 101): ""} }, "metadata"},
		{"metadata with a long value", func(a *kapsel.App) { a.Metadata = map[string]string{"plan": strings.Repeat("a", 501)} }, "metadata.plan"},
		{"much metadata", func(a *kapsel.App) {
			a.Metadata = map[string]string{}
			for i := range 51 {
				a.Metadata[fmt.Sprint(i)] = ""
			}
		}, "metadata"},
	} {
		a := kapsel.App{AppConfig: kapsel.AppConfig{Name: "Acme"}}
		tt.change(&a)
		var got []string
		for _, f := range a.Validate() {
			got = append(got, f.Field)
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: wrong is %q, want %q", tt.what, s, tt.want)
		}
	}
}

// TestValidate_EndpointOfApp checks that an endpoint of an app subscribes to what is published, and
// to nothing else.
func TestValidate_EndpointOfApp(t *testing.T) {
	now := time.Now()
	for want, subscriptions := range map[string][]kapsel.Subscription{
		"":                        {{Source: kapsel.Publish, EventTypes: []string{"a.*"}}},
		"subscriptions[0].source": {{Source: kapsel.NewSourceID(now).String()}},
		"subscriptions":           nil,
	} {
		c := kapsel.DefaultEndpoint()
		c.Name, c.URL, c.AppID = "e", "https://example.com", kapsel.NewAppID(now)
		c.Subscriptions, c.NoIngest = subscriptions, subscriptions != nil
		got := ""
		for _, f := range c.Validate(false) {
			got += f.Field
		}
		if got != want {
			t.Errorf("%v: wrong is %q, want %q", subscriptions, got, want)
		}
	}
}
