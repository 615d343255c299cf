package signature

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"github.com/kapsel-hq/kapsel"
)

// This file has the two providers that an endpoint's own settings describe: "hmac" and "token".

// Defaults of the settings of provider "hmac".
const (
	DefaultHeader      = "X-Webhook-Signature"
	DefaultAlgorithm   = "sha256"
	DefaultEncoding    = "hex"
	DefaultSigned      = "{body}"
	DefaultFormat      = "plain"
	DefaultTimeUnit    = "seconds"
	DefaultKeyEncoding = "text"
)

// withDefaults fills in unset settings of provider "hmac".
func withDefaults(v kapsel.Verification) kapsel.Verification {
	v.Header = cmp.Or(v.Header, DefaultHeader)
	v.Algorithm = cmp.Or(v.Algorithm, DefaultAlgorithm)
	v.Encoding = cmp.Or(v.Encoding, DefaultEncoding)
	v.Signed = cmp.Or(v.Signed, DefaultSigned)
	v.Format = cmp.Or(v.Format, DefaultFormat)
	v.TimeUnit = cmp.Or(v.TimeUnit, DefaultTimeUnit)
	v.KeyEncoding = cmp.Or(v.KeyEncoding, DefaultKeyEncoding)
	return v
}

var (
	encodings    = map[string]encoding{"hex": inHex, "base64": inBase64}
	timeUnits    = map[string]unit{"seconds": seconds, "milliseconds": millis, "rfc3339": rfc3339}
	keyEncodings = map[string]func([]byte) ([]byte, error){
		"text": func(secret []byte) ([]byte, error) { return secret, nil },
		"hex": func(secret []byte) ([]byte, error) {
			key, err := hex.DecodeString(string(secret))
			if err != nil {
				return nil, errors.New("the secret is not hex digits")
			}
			return key, nil
		},
		"base64": func(secret []byte) ([]byte, error) {
			key, err := base64.StdEncoding.DecodeString(string(secret))
			if err != nil {
				return nil, errors.New("the secret is not standard base64 with padding")
			}
			return key, nil
		},
	}
)

// formats holds the formats of provider "hmac". For "pairs" the prefix names the key of the
// signature, and the time has one of the usual keys.
var formats = map[string]func(prefix string, timed bool) format{
	"plain": func(string, bool) format { return plain },
	"list":  func(string, bool) format { return list },
	"pairs": func(prefix string, timed bool) format {
		timeKeys := ""
		if timed {
			timeKeys = "t ts timestamp"
		}
		return pairs(",; ", timeKeys, strings.TrimSuffix(cmp.Or(prefix, "v1="), "="))
	},
}

// hmacPreset returns the preset for settings of provider "hmac". The settings must have passed
// checkHMAC.
func hmacPreset(v kapsel.Verification) *preset {
	v = withDefaults(v)
	signed, err := parseTemplate(v.Signed)
	if err != nil {
		panic(err) // checkHMAC has checked it
	}
	h := headers{signature: http.CanonicalHeaderKey(v.Header)}
	if v.TimeHeader != "" {
		h.time = http.CanonicalHeaderKey(v.TimeHeader)
	}
	if signed.has("id") {
		h.id = "Webhook-Id"
	}
	p := &preset{
		secret:     "the key, as text, hex or base64 (key_encoding)",
		headers:    []headers{h},
		prefix:     v.Prefix,
		unit:       timeUnits[v.TimeUnit],
		format:     formats[v.Format](v.Prefix, signed.has("time") && h.time == ""),
		content:    signed.content,
		decompress: v.Decompress,
		key:        decodedKey(hashes[v.Algorithm], encodings[v.Encoding], keyEncodings[v.KeyEncoding]),
		anySpace:   v.KeyEncoding == DefaultKeyEncoding,
	}
	if signed.has("time") {
		p.tolerance = fiveMinutes
	}
	return p.complete()
}

// checkHMAC returns the wrong fields among the settings of provider "hmac".
func checkHMAC(v kapsel.Verification) (fields []kapsel.FieldError) {
	v = withDefaults(v)
	name := func(name, value string) {
		if !isToken(value) {
			fields = append(fields, field(name, "is not a header name"))
		}
	}
	oneOf := func(name, value, choices string) {
		if strings.Contains(value, " ") || !strings.Contains(" "+choices+" ", " "+value+" ") {
			fields = append(fields, field(name, "must be one of %s", strings.ReplaceAll(choices, " ", ", ")))
		}
	}
	name("header", v.Header)
	oneOf("algorithm", v.Algorithm, "sha256 sha512 sha1")
	oneOf("encoding", v.Encoding, "hex base64")
	oneOf("format", v.Format, "plain pairs list")
	oneOf("time_unit", v.TimeUnit, "seconds milliseconds rfc3339")
	oneOf("key_encoding", v.KeyEncoding, "text hex base64")
	if len(v.Prefix) > 64 || strings.ContainsFunc(v.Prefix, func(r rune) bool { return r < ' ' || r > '~' }) {
		fields = append(fields, field("prefix", "must be at most 64 printable ASCII characters"))
	} else if v.Format == "pairs" && v.Prefix != "" && (strings.Count(v.Prefix, "=") != 1 || strings.ContainsAny(v.Prefix, ",; ") || !strings.HasSuffix(v.Prefix, "=") || v.Prefix == "=") {
		fields = append(fields, field("prefix", "must be the signature's key and =, such as v1=, for the format pairs"))
	}
	signed, err := parseTemplate(v.Signed)
	switch {
	case err != nil:
		fields = append(fields, field("signed", "%v", err))
	case len(v.Signed) > 512:
		fields = append(fields, field("signed", "must be at most 512 bytes"))
	case !signed.body:
		fields = append(fields, field("signed", "must have {body}: without it anybody could change what is sent"))
	case signed.has("time") && v.TimeHeader == "" && v.Format != "pairs":
		fields = append(fields, field("signed", "has {time}, which needs time_header, or the format pairs"))
	case v.TimeHeader != "" && !signed.has("time"):
		fields = append(fields, field("time_header", "is a time that nobody signed: signed has no {time}"))
	}
	if v.TimeHeader != "" {
		name("time_header", v.TimeHeader)
	}
	return fields
}

// tokenIn is the place of the secret in requests of provider "token": a header, the credentials of
// Basic authentication (RFC 7617), or a query parameter.
type tokenIn struct{ header, query string }

const tokenBasic = "basic"

// parseTokenIn parses the setting "in".
func parseTokenIn(place string) (in tokenIn, ok bool) {
	if place == tokenBasic {
		return tokenIn{header: "Authorization"}, true
	}
	kind, name, _ := strings.Cut(place, ":")
	switch {
	case kind == "header" && isToken(name):
		return tokenIn{header: http.CanonicalHeaderKey(name)}, true
	case kind == "query" && isParameter(name):
		return tokenIn{query: name}, true
	}
	return tokenIn{}, false
}

// isParameter reports whether s can be the name of a query parameter: 1 to 128 printable ASCII
// characters without a meaning in a query.
func isParameter(s string) bool {
	return s != "" && len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("&=+%#;", r) })
}

// tokenPreset returns the preset for settings of provider "token", which sends the secret itself.
// The settings must be valid.
func tokenPreset(v kapsel.Verification) *preset {
	in, _ := parseTokenIn(v.In)
	p := &preset{secret: "the token that is sent; for basic the user, a colon and the password", key: tokenSecret, anySpace: true}
	switch {
	case v.In == tokenBasic:
		p.read = readBasic
		p.headers = []headers{{signature: in.header}}
		p.shared = []string{in.header}
	case in.query != "":
		p.read = readQuery
		p.sharedQuery = []string{in.query}
	default:
		p.read = readToken
		p.headers = []headers{{signature: in.header}}
		p.shared = []string{in.header}
	}
	return p.complete()
}

// readToken reads a secret that is sent as it is in a header. In Authorization it may follow the
// scheme Bearer (RFC 6750).
var readToken = reader{fromToken, toToken}

func fromToken(p *preset, r Request, m *message) error {
	name := p.headers[0].signature
	value, err := header(r, name)
	if err != nil {
		return err
	}
	m.add(versionToken, value)
	if name == "Authorization" && len(value) > len("bearer ") && strings.EqualFold(value[:len("bearer ")], "bearer ") {
		m.add(versionToken, strings.TrimLeft(value[len("bearer "):], " "))
	}
	return nil
}

// readBasic reads the credentials of Basic authentication: user, colon, password.
var readBasic = reader{fromBasic, toBasic}

func fromBasic(_ *preset, r Request, m *message) error {
	value, err := header(r, "Authorization")
	if err != nil {
		return err
	}
	scheme, encoded, _ := strings.Cut(value, " ")
	credentials, err := base64.StdEncoding.DecodeString(strings.TrimLeft(encoded, " "))
	if !strings.EqualFold(scheme, "basic") || err != nil {
		return refuse("the Authorization header has no credentials of Basic authentication")
	}
	m.add(versionToken, string(credentials))
	return nil
}

// readQuery reads a secret in the query. If the parameter comes twice, both values must be equal,
// because readers disagree on which one counts.
var readQuery = reader{fromQuery, toQuery}

func fromQuery(p *preset, r Request, m *message) error {
	_, query, _ := strings.Cut(r.URL, "?")
	n := 0
	for name, value := range parameters(query) {
		if name != p.sharedQuery[0] {
			continue
		}
		value, err := url.QueryUnescape(value)
		if err != nil {
			return refuse("the parameter %s of the query is not valid", name)
		}
		if n++; n > 1 && !sameToken(m.signatures[0].text, value) {
			return refuse("the query has two parameters %s that differ", name)
		}
		m.n = 0
		m.add(versionToken, value)
	}
	if n == 0 {
		return refuse("the query has no parameter %s", p.sharedQuery[0])
	}
	return nil
}

// parameters yields the names and the still escaped values of a query's parameters. It yields a
// name that cannot be unescaped as it is.
func parameters(query string) func(yield func(name, value string) bool) {
	return func(yield func(name, value string) bool) {
		for pair := range strings.SplitSeq(query, "&") {
			key, value, _ := strings.Cut(pair, "=")
			name, err := url.QueryUnescape(key)
			if err != nil {
				name = key
			}
			if pair != "" && !yield(name, value) {
				return
			}
		}
	}
}

// CleanQuery returns a raw query without the parameters in which the provider may send the secret
// itself. Callers must use it before they store the query, forward it or derive a key from it. The
// rest of the query stays unchanged.
func CleanQuery(v kapsel.Verification, query string) string {
	secrets := sharedIn(v).sharedQuery
	if len(secrets) == 0 || query == "" {
		return query
	}
	var kept []string
	for pair := range strings.SplitSeq(query, "&") {
		secret := false
		for name := range parameters(pair) {
			secret = indexOf(secrets, []byte(name)) >= 0
		}
		if !secret {
			kept = append(kept, pair)
		}
	}
	return strings.Join(kept, "&")
}

// SharedSecretHeaders returns the headers, in canonical form, in which the provider may send the
// secret itself. Callers must not store them: after Verify nobody needs them, and whoever reads
// them can forge requests.
func SharedSecretHeaders(v kapsel.Verification) []string { return sharedIn(v).shared }

// sharedIn returns the preset that says where the secret itself is sent; an empty one if nowhere.
func sharedIn(v kapsel.Verification) *preset {
	if v.Provider == "token" {
		return tokenPreset(v)
	}
	if p := presets[v.Provider]; p != nil {
		return p
	}
	return &preset{}
}

// checkSpace refuses a secret with white space around it, unless the provider gives out such
// secrets. The space comes from pasting, and would make every request fail.
func (p *preset) checkSpace(secret []byte) error {
	trimmed := bytes.TrimFunc(secret, func(r rune) bool { return unicode.IsSpace(r) || r == '\ufeff' || '\u200b' <= r && r <= '\u200d' })
	if !p.anySpace && len(trimmed) < len(secret) {
		return errors.New("the secret begins or ends with white space, which is none of it: paste it without")
	}
	return nil
}
