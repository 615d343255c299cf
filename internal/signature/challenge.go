package signature

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/jsonpath"
)

// Bounds of a challenge that an endpoint's settings describe. They are narrow, because an event
// that looks like a challenge must be stored nevertheless.
const (
	maxChallenge        = 1 << 10 // bytes of the value, printable ASCII
	maxChallengeMembers = 3       // members of a JSON body that is a challenge; all are strings
)

// place names where the value of a challenge is, in the request or in the answer.
type place struct{ kind, name string }

// The kinds of places.
const (
	inQuery  = "query"
	inHeader = "header"
	inJSON   = "json"
	inText   = "body"
)

// parsePlace parses "kind:name" or "body".
func parsePlace(text string) place {
	kind, name, _ := strings.Cut(text, ":")
	if kind == inHeader {
		name = http.CanonicalHeaderKey(name)
	}
	return place{kind, name}
}

// challengeOf parses the settings of a challenge. A JSON path must name a single top-level member,
// because all members of the body must be strings. wrong names the field that is wrong, and detail
// says why; both are "" if none is.
func challengeOf(c kapsel.Challenge) (from, to place, wrong, detail string) {
	from, to = parsePlace(c.From), parsePlace(c.To)
	switch from.kind {
	case inQuery:
		if !isParameter(from.name) {
			return from, to, "from", "must name a parameter of the query"
		}
	case inHeader:
		if !isToken(from.name) {
			return from, to, "from", "must name a header"
		}
	case inJSON:
		path, err := jsonpath.Parse(from.name)
		name, single := path.Member()
		if err != nil || !single || !isPlain(name) {
			return from, to, "from", "must have the path of one member of the body, such as json:$.challenge"
		}
		from.name = name
	default:
		return from, to, "from", "must be query:NAME, json:$.NAME or header:NAME"
	}
	switch to.kind {
	case inText:
		if c.To != inText {
			return from, to, "to", "must be body, json:NAME or header:NAME"
		}
	case inJSON:
		if !isPlain(to.name) || len(to.name) > 128 {
			return from, to, "to", "must name a member of the answer"
		}
	case inHeader:
		if from != to {
			return from, to, "to", "may be a header only where from is the same"
		}
		if !strings.HasPrefix(to.name, "X-") && !strings.HasPrefix(to.name, "Webhook-") || strings.HasPrefix(to.name, "X-Kapsel-") || browserObeys[to.name] {
			return from, to, "to", "must be a header that begins with X- or WebHook-, and none that a browser obeys or that Kapsel writes"
		}
	default:
		return from, to, "to", "must be body, json:NAME or header:NAME"
	}
	return from, to, "", ""
}

// browserObeys holds response headers that begin with X- and that change what a browser or proxy
// does or that Kapsel's own answers have.
var browserObeys = map[string]bool{
	"X-Content-Type-Options": true, "X-Frame-Options": true, "X-Xss-Protection": true, "X-Dns-Prefetch-Control": true, "X-Ua-Compatible": true,
	"X-Permitted-Cross-Domain-Policies": true, "X-Download-Options": true, "X-Robots-Tag": true, "X-Webkit-Csp": true,
	"X-Content-Security-Policy": true, "X-Ratelimit-Limit": true, "X-Ratelimit-Remaining": true, "X-Ratelimit-Reset": true,
	"X-Request-Id": true, "X-Accel-Redirect": true, "X-Accel-Buffering": true, "X-Accel-Charset": true, "X-Accel-Expires": true, "X-Accel-Limit-Rate": true,
	"X-Sendfile": true, "X-Lighttpd-Send-File": true,
}

// withoutPreset holds the providers whose endpoints may describe a challenge. The challenges of
// all other providers are built in.
var withoutPreset = []string{"", None, "hmac", "token"}

// CheckChallenge checks an endpoint's settings challenge and probe for its provider, and returns
// the wrong fields; nil if none is wrong.
func CheckChallenge(provider string, c *kapsel.Challenge, probe bool) (fields []kapsel.FieldError) {
	add := func(name, detail string) {
		fields = append(fields, kapsel.FieldError{Field: name, Detail: detail})
	}
	if !slices.Contains(withoutPreset, provider) {
		const detail = "is for the providers none, hmac and token: the others' challenges are known"
		if c != nil {
			add("challenge", detail)
		}
		if probe {
			add("probe", detail)
		}
		return fields
	}
	if c != nil {
		if _, _, wrong, detail := challengeOf(*c); wrong != "" {
			add("challenge."+wrong, detail)
		}
	}
	return fields
}

// Challenge is the challenge that an endpoint's settings describe, and whether they answer probes.
// The zero Challenge answers nothing.
type Challenge struct {
	from, to place // from.kind is "" if there is no challenge
	probe    bool
}

// NewChallenge returns the Challenge of an endpoint's settings challenge and probe. A challenge that
// CheckChallenge finds wrong is left out.
func NewChallenge(c *kapsel.Challenge, probe bool) Challenge {
	if c != nil {
		if from, to, wrong, _ := challengeOf(*c); wrong == "" {
			return Challenge{from, to, probe}
		}
	}
	return Challenge{probe: probe}
}

// Answer returns the answer to a request that is a challenge, or a probe (a GET or HEAD); nil if it
// is neither. A POST is a challenge only if it has no body, or a JSON object of at most maxHandshake
// bytes and three members, all strings. The answer repeats the caller's own value, in a form that
// no browser runs.
func (c Challenge) Answer(r Request) *Answer {
	if c.from.kind != "" {
		if value := c.from.read(r); isPlain(value) && len(value) <= maxChallenge {
			return c.to.write(value)
		}
	}
	if c.probe && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		return &Answer{Status: http.StatusOK}
	}
	return nil
}

// read returns the value of the challenge in a request; "" if there is none.
func (p place) read(r Request) string {
	if r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPost {
		return ""
	}
	if p.kind == inJSON {
		fields := challenge(r, p.name)
		if fields[0] == nil || !allStrings(r.Body) {
			return ""
		}
		return jsonpath.Text(fields[0])
	}
	if r.Method == http.MethodPost && len(r.Body) > 0 {
		return ""
	}
	if p.kind == inHeader {
		if values := r.Header[p.name]; len(values) == 1 {
			return values[0]
		}
		return ""
	}
	if u, err := url.Parse(r.URL); err == nil {
		return u.Query().Get(p.name)
	}
	return ""
}

// allStrings reports whether a JSON object has at most maxChallengeMembers members, all of them
// strings.
func allStrings(object []byte) bool {
	n := 0
	for value, err := range jsonpath.MemberValues(object) {
		if n++; err != nil || n > maxChallengeMembers || value[0] != '"' {
			return false
		}
	}
	return true
}

// write returns an answer with the value at the place.
func (p place) write(value string) *Answer {
	switch p.kind {
	case inJSON:
		return jsonAnswer(map[string]string{p.name: value})
	case inHeader:
		return &Answer{Status: http.StatusOK, Header: map[string]string{p.name: value}}
	}
	return plainAnswer(value)
}

// Claims reports whether a request has a header or parameter that carries the provider's signature
// or secret, valid or not. Callers must answer a challenge that has one only after Verify.
func (v *Verifier) Claims(r Request) bool {
	if v.preset == nil {
		return false
	}
	for _, h := range v.preset.headers {
		if _, ok := r.Header[h.signature]; ok {
			return true
		}
	}
	_, query, _ := strings.Cut(r.URL, "?")
	for name := range parameters(query) {
		if slices.Contains(v.preset.sharedQuery, name) {
			return true
		}
	}
	return false
}
