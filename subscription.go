package kapsel

import (
	"fmt"
	"slices"
	"strings"
)

// Limits of an endpoint's subscriptions.
const (
	MaxSubscriptions = 50     // of an endpoint
	MaxDestinations  = 10_000 // endpoints that may get the events of one origin, an ingest's own included
	MaxInline        = 256    // deliveries that are made together with their event

	maxPatterns = 200 // of a subscription
	maxChannels = 10  // of a subscription or an event
)

// Publish stands for published events in place of a subscription's source.
const Publish = "publish"

// Subscription says which events an endpoint gets beside those of its own ingest. Empty lists
// let all events through.
type Subscription struct {
	Source     string   `json:"source"`                // the id of a source or of an endpoint with an ingest, or Publish
	EventTypes []string `json:"event_types,omitempty"` // exact types, or the beginning of types followed by ".*"
	Channels   []string `json:"channels,omitempty"`    // an event must have one of them
}

// Origin returns the origin that a subscription of an endpoint names, zero where its source is not
// valid. published is the endpoint's Publisher. A source and an endpoint with one UUID are the same
// origin.
func (s *Subscription) Origin(published OriginID) OriginID {
	switch prefix, _, _ := strings.Cut(s.Source, "_"); prefix {
	case Publish:
		if s.Source == Publish {
			return published
		}
	case sourceKind{}.prefix():
		id, _ := ParseSourceID(s.Source)
		return OriginID(id)
	case endpointKind{}.prefix():
		id, _ := ParseEndpointID(s.Source)
		return OriginID(id)
	}
	return OriginID{}
}

// Matches reports whether a subscription lets an event of its origin through. An event without
// a type, or without channels, passes only where the subscription names none.
func (s *Subscription) Matches(eventType string, channels []string) bool {
	typed := func(pattern string) bool { return matchesType(pattern, eventType) }
	if len(s.EventTypes) > 0 && !slices.ContainsFunc(s.EventTypes, typed) {
		return false
	}
	return len(s.Channels) == 0 || slices.ContainsFunc(channels, func(c string) bool { return slices.Contains(s.Channels, c) })
}

// All reports whether a subscription lets all events of its origin through.
func (s *Subscription) All() bool { return len(s.EventTypes) == 0 && len(s.Channels) == 0 }

// matchesType reports whether a type is the pattern, or goes on behind a pattern's last ".*".
func matchesType(pattern, eventType string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok && strings.HasSuffix(prefix, ".") {
		return strings.HasPrefix(eventType, prefix) && len(eventType) > len(prefix)
	}
	return pattern == eventType
}

// Ingests reports whether the endpoint has an ingest URL. An endpoint that was created with subscriptions,
// even an empty list, has none. PATCH does not change that.
func (c *EndpointConfig) Ingests() bool { return !c.NoIngest }

// Publisher returns the origin of the published events that the endpoint may get: its app, and of
// an endpoint without an app its tenant.
func (e *Endpoint) Publisher() OriginID {
	if !e.AppID.IsZero() {
		return OriginID(e.AppID)
	}
	return OriginID(e.TenantID)
}

// Subscribes reports whether the endpoint gets any events of an origin other than its own ingest.
func (e *Endpoint) Subscribes(origin OriginID) bool {
	published := e.Publisher()
	return slices.ContainsFunc(e.Subscriptions, func(s Subscription) bool { return s.Origin(published) == origin })
}

// Wants reports whether one of the endpoint's subscriptions lets an event of an origin through.
func (e *Endpoint) Wants(origin OriginID, eventType string, channels []string) bool {
	published := e.Publisher()
	return slices.ContainsFunc(e.Subscriptions, func(s Subscription) bool {
		return s.Origin(published) == origin && s.Matches(eventType, channels)
	})
}

// Gets reports whether an expansion of an event makes a delivery to the endpoint, unless it has one:
// the endpoint wants the event, is not deleted, and was not made after the event came in.
func (e *Endpoint) Gets(ev *Event) bool {
	return e.DeletedAt.IsZero() && !e.CreatedAt.After(ev.ReceivedAt) && e.Wants(ev.Audience(), ev.Type, ev.Channels)
}

// WantsAll reports whether one of the endpoint's subscriptions lets all events of an origin through.
func (e *Endpoint) WantsAll(origin OriginID) bool {
	published := e.Publisher()
	return slices.ContainsFunc(e.Subscriptions, func(s Subscription) bool { return s.Origin(published) == origin && s.All() })
}

// subscriptions checks what an endpoint subscribes to, and that an endpoint without an ingest
// sets nothing that belongs to one. Whether the sources exist is for the store to say.
func (f *fields) subscriptions(c *EndpointConfig) {
	if len(c.Subscriptions) > MaxSubscriptions {
		f.add("subscriptions", "must be at most %d", MaxSubscriptions)
		return
	}
	seen := map[string]bool{}
	for i := range c.Subscriptions {
		s, at := &c.Subscriptions[i], fmt.Sprintf("subscriptions[%d]", i)
		if s.Origin(OriginID{1}).IsZero() {
			f.add(at+".source", "must be the id of a source (src_…), of an endpoint (ep_…), or %s", Publish)
			continue
		}
		if !c.AppID.IsZero() && s.Source != Publish {
			f.add(at+".source", "must be %s: an endpoint of an app gets what is published to the app, and nothing else", Publish)
		}
		if all := fmt.Sprintf("%q", *s); seen[all] {
			f.add(at+".source", "is there twice")
		} else {
			seen[all] = true
		}
		f.each(at+".event_types", s.EventTypes, maxPatterns, validPattern, typeForm+", or the beginning of types followed by .*")
		f.each(at+".channels", s.Channels, maxChannels, ValidChannel, nameForm)
	}
	if c.Ingests() {
		if !c.AppID.IsZero() {
			f.add("subscriptions", "is needed with app, such as [{\"source\": \"%s\"}]: an endpoint of an app has no ingest", Publish)
		}
		return
	}
	for _, setting := range []struct {
		field string
		set   bool
	}{
		{"verification", c.Verification.Provider != "" && c.Verification.Provider != "none" || len(c.Verification.Secrets) > 0},
		{"idempotency", c.Idempotency != DefaultIntake().Idempotency},
		{"response", c.Response != nil},
		{"challenge", c.Challenge != nil},
		{"probe", c.Probe},
		{"expect_every", c.ExpectEvery != 0},
	} {
		if setting.set {
			f.add(setting.field, "belongs to an ingest, which an endpoint that was made with subscriptions has not")
		}
	}
}

// each checks that the entries of a list of texts have the form that form describes.
func (f *fields) each(field string, list []string, most int, valid func(string) bool, form string) {
	if len(list) > most {
		f.add(field, "must have at most %d entries", most)
		return
	}
	for i, s := range list {
		if !valid(s) {
			f.add(fmt.Sprintf("%s[%d]", field, i), "must be %s", form)
		}
	}
}

// validPattern reports whether a text can be an entry of Subscription.EventTypes.
func validPattern(s string) bool {
	s = strings.TrimSuffix(s, ".*")
	return TypeText(s) != "" && !strings.Contains(s, "*")
}

// SubscriptionField returns the path in the API of the source of an endpoint's subscription.
func SubscriptionField(i int) string { return fmt.Sprintf("subscriptions[%d].source", i) }
