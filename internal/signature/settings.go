package signature

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/jsonpath"
)

// None is the provider of an endpoint that checks nothing.
const None = "none"

func isNone(provider string) bool { return provider == "" || provider == None }

var errNoSecret = errors.New("verification needs at least one secret")

// presetFor returns the preset for settings, or the first problem that Check would report.
func presetFor(v kapsel.Verification) (*preset, error) {
	if fields := checkSettings(v); len(fields) > 0 {
		return nil, fmt.Errorf("%s: %s", fields[0].Field, fields[0].Detail)
	}
	switch v.Provider {
	case "hmac":
		return hmacPreset(v), nil
	case "token":
		return tokenPreset(v), nil
	}
	return presets[v.Provider], nil
}

// Providers returns the names of all built-in providers, sorted, without None.
func Providers() []string {
	names := []string{"hmac", "token"}
	for name := range presets {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Provider describes a provider to people who set it up.
type Provider struct {
	Name       string
	Title      string        // for people
	Paste      string        // place of the ingest URL in the provider's settings
	Secret     string        // which text to enter as secret
	Events     string        // which events to choose there; "": not known
	Find       string        // where to find the secret
	Note       string        // peculiarities, and questions that the provider's documentation leaves open
	Headers    []string      // headers that carry signatures; none: the body or the query does
	Tolerance  time.Duration // the default; 0: no time is checked
	Handshake  bool          // the provider sends a challenge
	DeliveryID []string      // headers with the provider's ID of a delivery, which stays the same on retries
	DeliveryIn string        // path of such an ID in the JSON body; "": none
	Shared     []string      // SharedSecretHeaders
	Retries    string        // when the provider sends again
	Resigned   string        // whether retries are signed anew: yes, no, not known, no time is checked
	Sources    []string      // pages with this information
	Answer     *Answer       // answer to an accepted event; nil: the usual one
}

// Describe returns the descriptions of all built-in providers, sorted by name, without None.
func Describe() []Provider {
	var list []Provider
	for _, name := range Providers() {
		p := presets[name]
		switch name {
		case "hmac":
			p = hmacPreset(kapsel.Verification{})
		case "token":
			p = tokenPreset(kapsel.Verification{In: "header:" + DefaultHeader})
			p.headers = nil
		}
		s := setups[name]
		about := Provider{
			Name: name, Title: s.title, Paste: s.paste, Secret: p.secret, Events: s.events, Find: s.find, Note: s.note,
			Tolerance: p.tolerance, Handshake: p.handshake != nil || p.unsigned != nil || p.confirm != nil || p.brings != nil,
			DeliveryID: p.delivery, DeliveryIn: p.deliveryIn.text, Shared: p.shared,
			Retries: s.retries, Resigned: s.resigned, Sources: strings.Split(s.source, ", "), Answer: p.accepted,
		}
		for _, h := range p.headers {
			about.Headers = append(about.Headers, h.signature)
		}
		list = append(list, about)
	}
	return list
}

// DeliveryID returns the provider's own ID of a delivery, which stays the same on retries, from
// the headers or else from the body; "" if there is none. Callers must not assume anything about
// its characters.
func DeliveryID(provider string, h http.Header, body []byte) string {
	p := presets[provider]
	if p == nil {
		return ""
	}
	for _, name := range p.delivery {
		if v := h.Get(name); v != "" {
			return v
		}
	}
	id, _ := p.deliveryIn.find(body)
	return id
}

// NamesDeliveries reports whether the provider's webhooks have a DeliveryID.
func NamesDeliveries(provider string) bool {
	p := presets[provider]
	return p != nil && (len(p.delivery) > 0 || p.deliveryIn.text != "")
}

// NamesKeys reports whether an intake says where its events have an idempotency key: by a path, by
// a header of its own, or by a provider that gives each delivery an ID. An event of such an intake
// without a key is unexpected.
func NamesKeys(in *kapsel.Intake) bool {
	switch in.Idempotency.Strategy {
	case kapsel.KeyNone, kapsel.KeyFromContent:
		return false
	case kapsel.KeyFromSourceID:
		return true
	}
	return in.Idempotency.Header != "" || NamesDeliveries(in.Verification.Provider)
}

// inBody is the place of a delivery's ID in a body: a path and its text; zero: none.
type inBody struct {
	jsonpath.Path
	text string
}

// at parses a path, and panics if it is not valid.
func at(text string) inBody {
	path, err := jsonpath.Parse(text)
	if err != nil {
		panic(err)
	}
	return inBody{path, text}
}

func (p inBody) find(body []byte) (string, bool) {
	if p.text == "" {
		return "", false
	}
	return p.Find(body)
}

// InForce returns settings that Check accepts, with defaults filled in. The tolerance stays 0 if
// no time is signed.
func InForce(v kapsel.Verification) kapsel.Verification {
	if isNone(v.Provider) {
		v.Provider = None
		return v
	}
	p, err := presetFor(v)
	if err != nil {
		return v
	}
	if v.Tolerance == 0 {
		v.Tolerance = p.tolerance
	}
	if v.Provider == "hmac" {
		v = withDefaults(v)
	}
	return v
}

// MaxTolerance is the longest tolerance that an endpoint may set.
const MaxTolerance = 96 * time.Hour

// Check returns the wrong fields of an endpoint's settings, named by their paths from
// "verification"; nil if none is wrong. It does not check the secrets' contents; CheckSecret does.
func Check(v kapsel.Verification) []kapsel.FieldError {
	fields := checkSettings(v)
	if len(fields) > 0 || isNone(v.Provider) {
		return fields
	}
	switch p, _ := presetFor(v); {
	case !v.AwaitingUntil.IsZero() && len(v.Secrets) > 0:
		fields = append(fields, field("awaiting_handshake", "is for an endpoint without a secret: set secrets to [] to await another"))
	case p.brings != nil: // it has no secret until its handshake
	case p.key != nil && len(v.Secrets) == 0:
		fields = append(fields, field("secrets", "%v", errNoSecret))
	case p.key == nil && len(v.Secrets) > 0:
		fields = append(fields, field("secrets", "must be empty: %s", p.secret))
	}
	return fields
}

func field(name, format string, args ...any) kapsel.FieldError {
	return kapsel.FieldError{Field: "verification." + name, Detail: fmt.Sprintf(format, args...)}
}

// settingsOf holds, by provider, the settings that only this provider has.
var settingsOf = map[string][]string{
	"hmac":  {"header", "algorithm", "encoding", "prefix", "signed", "format", "time_header", "time_unit", "key_encoding", "decompress"},
	"token": {"in"},
	"meta":  {"verify_token"},

	"asana":       {"awaiting_handshake"},
	"notion":      {"awaiting_handshake"},
	"aws-sns":     {"topic_arns"},
	"google-oidc": {"audience", "email"},
}

// given returns which of the settings of settingsOf are set.
func given(v kapsel.Verification) map[string]bool {
	return map[string]bool{
		"header": v.Header != "", "algorithm": v.Algorithm != "", "encoding": v.Encoding != "", "prefix": v.Prefix != "",
		"signed": v.Signed != "", "format": v.Format != "", "time_header": v.TimeHeader != "", "time_unit": v.TimeUnit != "",
		"key_encoding": v.KeyEncoding != "", "decompress": v.Decompress,
		"awaiting_handshake": !v.AwaitingUntil.IsZero(),
		"topic_arns":         len(v.TopicARNs) > 0, "audience": v.Audience != "", "email": v.Email != "",
		"in": v.In != "", "verify_token": v.VerifyToken != nil,
	}
}

func checkSettings(v kapsel.Verification) (fields []kapsel.FieldError) {
	if !isNone(v.Provider) && !slices.Contains(Providers(), v.Provider) {
		return append(fields, field("provider", "no such provider; one of none, %s", strings.Join(Providers(), ", ")))
	}
	if v.Tolerance < 0 || v.Tolerance > MaxTolerance {
		fields = append(fields, field("tolerance", "must be from 1s to 96h"))
	}
	for name, set := range given(v) {
		if set && !slices.Contains(settingsOf[v.Provider], name) {
			var of []string
			for provider, names := range settingsOf {
				if slices.Contains(names, name) {
					of = append(of, provider)
				}
			}
			slices.Sort(of)
			fields = append(fields, field(name, "is for provider %s only", strings.Join(of, ", ")))
		}
	}
	slices.SortFunc(fields, func(a, b kapsel.FieldError) int { return strings.Compare(a.Field, b.Field) })
	switch v.Provider {
	case "hmac":
		fields = append(fields, checkHMAC(v)...)
	case "aws-sns":
		fields = append(fields, checkTopics(v.TopicARNs)...)
	case "google-oidc":
		fields = append(fields, checkOIDC(v)...)
	case "token":
		if _, ok := parseTokenIn(v.In); !ok {
			fields = append(fields, field("in", "must be header:NAME, basic or query:NAME"))
		}
	}
	return fields
}

// isToken reports whether s is a header name (RFC 9110: a token) of at most 128 bytes.
func isToken(s string) bool {
	return s != "" && len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// CheckSecret checks a secret for settings that Check accepts. It returns nil, or an error for
// people that does not show the secret.
func CheckSecret(v kapsel.Verification, secret []byte) error {
	if isNone(v.Provider) {
		return nil
	}
	p, err := presetFor(v)
	if err != nil {
		return err
	}
	if p.key == nil {
		return errors.New("the provider has no secret")
	}
	if err := p.checkSpace(secret); err != nil {
		return err
	}
	_, err = p.key(secret)
	return err
}
