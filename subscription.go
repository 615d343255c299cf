package kapsel

import (
	"slices"
	"strconv"
)

// Bounds of what endpoints subscribe to.
const (
	MaxSubscriptions = 50  // of an endpoint
	MaxDestinations  = 256 // endpoints that get an event of one ingest, the one of the ingest included
)

// Subscription says which events an endpoint gets beside those of its own ingest.
type Subscription struct {
	Source EndpointID `json:"source"` // the endpoint whose ingest the events come in at
}

// Ingests reports whether webhooks may be posted to the endpoint. One that was made with
// subscriptions, an empty list included, has no ingest; PATCH does not change that.
func (c *EndpointConfig) Ingests() bool { return !c.NoIngest }

// Subscribes reports whether the endpoint gets events of another one's ingest.
func (c *EndpointConfig) Subscribes(source EndpointID) bool {
	return slices.ContainsFunc(c.Subscriptions, func(s Subscription) bool { return s.Source == source })
}

// subscriptions checks what an endpoint subscribes to, and that an endpoint without an ingest
// sets nothing that belongs to one. Whether the sources exist is for the store to say.
func (f *fields) subscriptions(c *EndpointConfig) {
	if len(c.Subscriptions) > MaxSubscriptions {
		f.add("subscriptions", "must be at most %d", MaxSubscriptions)
		return
	}
	seen := map[EndpointID]bool{}
	for i, s := range c.Subscriptions {
		if seen[s.Source] {
			f.add(SubscriptionField(i), "is there twice")
		}
		seen[s.Source] = true
	}
	if c.Ingests() {
		return
	}
	for _, setting := range []struct {
		field string
		set   bool
	}{
		{"verification", c.Verification.Provider != "" && c.Verification.Provider != "none" || len(c.Verification.Secrets) > 0},
		{"idempotency", c.Idempotency != DefaultEndpoint().Idempotency},
		{"response", c.Response != nil},
		{"challenge", c.Challenge != nil},
		{"probe", c.Probe},
	} {
		if setting.set {
			f.add(setting.field, "belongs to an ingest, which an endpoint that was made with subscriptions has not")
		}
	}
}

// SubscriptionField is the path in the API of the source of an endpoint's subscription.
func SubscriptionField(i int) string { return "subscriptions[" + strconv.Itoa(i) + "].source" }
