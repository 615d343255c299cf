package signature

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// None is the provider of an endpoint that checks nothing.
const None = "none"

func isNone(provider string) bool { return provider == "" || provider == None }

// Defaults of the settings of provider "hmac".
const (
	DefaultHeader    = "X-Webhook-Signature"
	DefaultAlgorithm = "sha256"
	DefaultEncoding  = "hex"
)

// hmacPreset is provider "hmac": an HMAC of the body, as the endpoint's settings say.
func hmacPreset(v kapsel.Verification) *preset {
	if v.Header == "" {
		v.Header = DefaultHeader
	}
	if v.Algorithm == "" {
		v.Algorithm = DefaultAlgorithm
	}
	e := inHex
	if v.Encoding == "base64" {
		e = inBase64
	}
	p := &preset{
		secret:  "the key, as text",
		headers: []headers{{signature: http.CanonicalHeaderKey(v.Header)}},
		prefix:  v.Prefix,
		key:     textKey(hashes[v.Algorithm], e),
	}
	return p.complete()
}

var errNoSecret = errors.New("verification needs at least one secret")

// presetFor is the preset of settings, or what Check says of them first.
func presetFor(v kapsel.Verification) (*preset, error) {
	if fields := checkSettings(v); len(fields) > 0 {
		return nil, fmt.Errorf("%s: %s", fields[0].Field, fields[0].Detail)
	}
	if v.Provider == "hmac" {
		return hmacPreset(v), nil
	}
	return presets[v.Provider], nil
}

// Providers are the names that are built, in order, without None.
func Providers() []string {
	names := []string{"hmac"}
	for name := range presets {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Provider is what people need to know of a provider to set it up.
type Provider struct {
	Name       string
	Title      string        // for people
	Paste      string        // where in the provider's settings the ingest URL goes
	Secret     string        // what to give as a secret
	Find       string        // where it is
	Note       string        // what is peculiar, and what its documentation leaves open
	Headers    []string      // that carry signatures; none: the body does
	Tolerance  time.Duration // the default; 0: no time is signed
	Handshake  bool          // it asks the endpoint to prove itself
	DeliveryID []string      // headers that name a delivery, the same when it is sent again
	DeliveryIn string        // where its JSON body does: a path; "": nowhere
	Shared     []string      // SharedSecretHeader
}

// Describe describes the providers that are built, in order, without None.
func Describe() []Provider {
	var list []Provider
	for _, name := range Providers() {
		p := presets[name]
		if name == "hmac" {
			p = hmacPreset(kapsel.Verification{})
		}
		about := Provider{Name: name, Title: setups[name].title, Paste: setups[name].paste, Find: setups[name].find, Note: notes[name], Secret: p.secret, Tolerance: p.tolerance, Handshake: p.handshake != nil, DeliveryID: p.delivery, DeliveryIn: p.deliveryIn.text, Shared: p.shared}
		for _, h := range p.headers {
			about.Headers = append(about.Headers, h.signature)
		}
		list = append(list, about)
	}
	return list
}

// DeliveryID is the provider's own name of a delivery, the same when it is sent again: from
// the headers, or from the body where that has it. It may hold anything; "" where there is none.
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

// inBody is where a body names its delivery: a path, and the text of it; zero: nowhere.
type inBody struct {
	kapsel.Path
	text string
}

// at is for paths that are right.
func at(text string) inBody {
	path, err := kapsel.ParsePath(text)
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

// DefaultTolerance is how far a provider's signed time may be from ours where an endpoint does
// not say; 0 where no time is signed.
func DefaultTolerance(provider string) time.Duration {
	if p := presets[provider]; p != nil {
		return p.tolerance
	}
	return 0
}

// SharedSecretHeader is the headers in which the provider may send the secret itself, in
// canonical form. Once a request is checked nobody needs them, and who reads them can make
// such requests: they are not to be stored.
func SharedSecretHeader(provider string) []string {
	if p := presets[provider]; p != nil {
		return p.shared
	}
	return nil
}

// MaxTolerance is the longest tolerance that an endpoint may set.
const MaxTolerance = 96 * time.Hour

// Check is what is wrong with an endpoint's settings, each with its field below
// "verification"; nil if nothing is. It does not look into secrets; CheckSecret does.
func Check(v kapsel.Verification) []kapsel.FieldError {
	fields := checkSettings(v)
	if len(fields) == 0 && !isNone(v.Provider) && len(v.Secrets) == 0 {
		fields = append(fields, field("secrets", "%v", errNoSecret))
	}
	return fields
}

func field(name, format string, args ...any) kapsel.FieldError {
	return kapsel.FieldError{Field: "verification." + name, Detail: fmt.Sprintf(format, args...)}
}

func checkSettings(v kapsel.Verification) (fields []kapsel.FieldError) {
	if !isNone(v.Provider) && v.Provider != "hmac" && presets[v.Provider] == nil {
		return append(fields, field("provider", "no such provider; one of none, %s", strings.Join(Providers(), ", ")))
	}
	if v.Tolerance < 0 || v.Tolerance > MaxTolerance {
		fields = append(fields, field("tolerance", "must be from 1s to 96h"))
	}
	if v.Provider != "hmac" {
		for name, value := range map[string]string{"header": v.Header, "algorithm": v.Algorithm, "encoding": v.Encoding, "prefix": v.Prefix} {
			if value != "" {
				fields = append(fields, field(name, "is for provider hmac only"))
			}
		}
		slices.SortFunc(fields, func(a, b kapsel.FieldError) int { return strings.Compare(a.Field, b.Field) })
		return fields
	}
	if v.Header != "" && !isToken(v.Header) {
		fields = append(fields, field("header", "is not a header name"))
	}
	if v.Algorithm != "" && hashes[v.Algorithm] == nil {
		fields = append(fields, field("algorithm", "must be sha256, sha512 or sha1"))
	}
	if v.Encoding != "" && v.Encoding != "hex" && v.Encoding != "base64" {
		fields = append(fields, field("encoding", "must be hex or base64"))
	}
	if len(v.Prefix) > 64 || strings.ContainsFunc(v.Prefix, func(r rune) bool { return r < ' ' || r > '~' }) {
		fields = append(fields, field("prefix", "must be at most 64 printable ASCII characters"))
	}
	return fields
}

// isToken reports whether s can be a header name (RFC 9110: a token), of at most 128 bytes.
func isToken(s string) bool {
	return s != "" && len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// CheckSecret is what is wrong with a secret for settings that Check accepts: nil, or an
// error for people that does not show the secret.
func CheckSecret(v kapsel.Verification, secret []byte) error {
	if isNone(v.Provider) {
		return nil
	}
	p, err := presetFor(v)
	if err != nil {
		return err
	}
	_, err = p.key(secret)
	return err
}
