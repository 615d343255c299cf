package signature

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/kapsel-hq/kapsel"
)

// Bounds of a challenge that an endpoint's settings describe. An event that happens to look
// like one must be stored, so little may.
const (
	maxChallenge        = 1 << 10 // bytes of its value, printable ASCII
	maxChallengeMembers = 3       // members of a body that is one, all strings
)

// place is where a challenge, or its answer, is.
type place struct{ kind, name string }

// The kinds of places.
const (
	inQuery  = "query"
	inHeader = "header"
	inJSON   = "json"
	inText   = "body"
)

// parsePlace reads kind:name, or body.
func parsePlace(text string) place {
	kind, name, _ := strings.Cut(text, ":")
	if kind == inHeader {
		name = http.CanonicalHeaderKey(name)
	}
	return place{kind, name}
}

// challengeOf reads the settings of a challenge. Of a path only a single member's name counts,
// as the body's members must all be strings. wrong names the field that is wrong.
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
		path, err := kapsel.ParsePath(from.name)
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

// browserObeys are headers of answers that begin with X- and change what a browser does, or
// that ours have.
var browserObeys = map[string]bool{
	"X-Content-Type-Options": true, "X-Frame-Options": true, "X-Xss-Protection": true, "X-Dns-Prefetch-Control": true, "X-Ua-Compatible": true,
	"X-Permitted-Cross-Domain-Policies": true, "X-Download-Options": true, "X-Robots-Tag": true, "X-Webkit-Csp": true,
	"X-Content-Security-Policy": true, "X-Ratelimit-Limit": true, "X-Ratelimit-Remaining": true, "X-Ratelimit-Reset": true,
	"X-Request-Id": true, "X-Accel-Redirect": true, "X-Accel-Buffering": true, "X-Accel-Charset": true, "X-Accel-Expires": true, "X-Accel-Limit-Rate": true,
	"X-Sendfile": true, "X-Lighttpd-Send-File": true,
}

// withoutPreset are the providers whose endpoints may describe a challenge: the others know
// their own.
var withoutPreset = []string{"", None, "hmac", "token"}

// CheckChallenge is what is wrong with an endpoint's settings of challenge and probe, for its
// provider, each with its field; nil if nothing is.
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

// Challenged is the answer to a request that is a challenge, or a probe (a GET or HEAD), as an
// endpoint's settings describe them; nil where it is none. A POST is a challenge only without a
// body, or with a JSON object of at most maxHandshake bytes and three members, all strings.
// What is answered are the caller's own words, in no form that a browser runs.
func Challenged(c *kapsel.Challenge, probe bool, r Request) *Answer {
	if c != nil {
		if from, to, wrong, _ := challengeOf(*c); wrong == "" {
			if value := from.read(r); isPlain(value) && len(value) <= maxChallenge {
				return to.write(value)
			}
		}
	}
	if probe && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		return &Answer{Status: http.StatusOK}
	}
	return nil
}

// read is the value of a request's challenge, "" without one.
func (p place) read(r Request) string {
	if r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPost {
		return ""
	}
	if p.kind == inJSON {
		fields := challenge(r, p.name)
		if fields[0] == nil || !allStrings(r.Body) {
			return ""
		}
		return kapsel.Text(fields[0])
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

// allStrings reports whether an object has at most maxChallengeMembers members, all strings.
func allStrings(object []byte) bool {
	n := 0
	for value, err := range kapsel.MemberValues(object) {
		if n++; err != nil || n > maxChallengeMembers || value[0] != '"' {
			return false
		}
	}
	return true
}

// write is the answer that has the value at a place.
func (p place) write(value string) *Answer {
	switch p.kind {
	case inJSON:
		return jsonAnswer(map[string]string{p.name: value})
	case inHeader:
		return &Answer{Status: http.StatusOK, Header: map[string]string{p.name: value}}
	}
	return plainAnswer(value)
}

// Claims reports whether a request has what the provider signs with, or the secret itself,
// rightly or not. A challenge that has it is answered only after Verify.
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
