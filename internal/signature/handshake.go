package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/kapsel-hq/kapsel"
)

// Answer is what a provider is to be answered instead of the usual body. What it holds may
// be the caller's own words: send it with X-Content-Type-Options: nosniff.
type Answer struct {
	Status      int
	ContentType string // "": none
	Body        []byte
}

// Handshake is the answer to a request that is a provider's challenge and no event; nil if
// it is none. Ask it of GET and HEAD requests as they come, and of POST requests only after
// Verify accepted them: some of its answers are made with the endpoint's secret. A status of
// 403 refuses the challenge and has no body.
func (v *Verifier) Handshake(r Request) *Answer {
	if v.preset == nil || v.preset.handshake == nil {
		return nil
	}
	return v.preset.handshake(v, r)
}

// Accepted is the answer that a provider demands for an accepted event; nil: the usual one.
func Accepted(provider string) *Answer {
	if p := presets[provider]; p != nil {
		return p.accepted
	}
	return nil
}

// maxHandshake is the longest body and the longest challenge of a handshake, in bytes.
const maxHandshake = 4 << 10

// challenge returns the named members of the JSON object of a POST that may be a handshake,
// all nil if it is none.
func challenge(r Request, names ...string) [][]byte {
	if r.Method == http.MethodPost && len(r.Body) <= maxHandshake {
		if fields, err := kapsel.Members(r.Body, names...); err == nil {
			return fields
		}
	}
	return make([][]byte, len(names))
}

// isPlain reports whether a challenge is 1 to maxHandshake characters of printable ASCII.
func isPlain(s string) bool {
	return s != "" && len(s) <= maxHandshake && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// maxOpaque is the longest challenge that a secret signs, in bytes.
const maxOpaque = 256

// isOpaque reports whether a challenge is letters, digits and what base64 and ids hold
// beside them. What a secret signs must be no more: it could be the body of an event.
func isOpaque(s string) bool {
	return isPlain(s) && len(s) <= maxOpaque && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("+/=_-.", r))
	})
}

func plainAnswer(text string) *Answer {
	return &Answer{Status: http.StatusOK, ContentType: "text/plain; charset=utf-8", Body: []byte(text)}
}

func jsonAnswer(fields any) *Answer {
	body, err := json.Marshal(fields)
	if err != nil {
		panic(err) // maps of strings and ints always encode
	}
	return &Answer{Status: http.StatusOK, ContentType: "application/json", Body: body}
}

func slackHandshake(_ *Verifier, r Request) *Answer {
	fields := challenge(r, "type", "challenge")
	if c := text(fields[1]); text(fields[0]) == "url_verification" && isPlain(c) {
		return plainAnswer(c)
	}
	return nil
}

// zoomHandshake proves with the first secret that the endpoint has it.
func zoomHandshake(v *Verifier, r Request) *Answer {
	fields := challenge(r, "event", "payload")
	if text(fields[0]) != "endpoint.url_validation" {
		return nil
	}
	payload, err := kapsel.Members(fields[1], "plainToken")
	if err != nil {
		return nil
	}
	token := text(payload[0])
	if !isOpaque(token) {
		return nil
	}
	return jsonAnswer(map[string]string{"plainToken": token, "encryptedToken": hex.EncodeToString(v.sign(token))})
}

// sign is the HMAC-SHA256 of a text under the first secret.
func (v *Verifier) sign(text string) []byte {
	h := hmac.New(sha256.New, v.keys[0].secret)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// discordHandshake answers the pings of webhook events (type 0) and of interactions (type 1
// without an event).
func discordHandshake(_ *Verifier, r Request) *Answer {
	fields := challenge(r, "type", "event")
	isEvent := fields[1] != nil
	switch kind := string(fields[0]); {
	case kind == "0":
		return &Answer{Status: http.StatusNoContent, ContentType: "application/json"}
	case kind == "1" && !isEvent:
		return jsonAnswer(map[string]int{"type": 1})
	}
	return nil
}

// bitbucketHandshake answers Data Center's test of a connection.
func bitbucketHandshake(_ *Verifier, r Request) *Answer {
	if r.Method == http.MethodPost && r.Header.Get("X-Event-Key") == "diagnostics:ping" {
		return &Answer{Status: http.StatusOK}
	}
	return nil
}

// intercomHandshake answers the HEAD request by which Intercom makes sure of a URL before it
// takes it (developers.intercom.com/docs/webhooks/setting-up-webhooks).
func intercomHandshake(_ *Verifier, r Request) *Answer {
	if r.Method == http.MethodHead {
		return &Answer{Status: http.StatusOK}
	}
	return nil
}

// xeroHandshake answers the intent to receive, which has no events.
func xeroHandshake(_ *Verifier, r Request) *Answer {
	var events []json.RawMessage
	if list := challenge(r, "events")[0]; list != nil && json.Unmarshal(list, &events) == nil && len(events) == 0 {
		return &Answer{Status: http.StatusOK}
	}
	return nil
}

// query are the parameters of a GET; nil for another method.
func query(r Request) url.Values {
	u, err := url.Parse(r.URL)
	if r.Method != http.MethodGet || err != nil {
		return nil
	}
	return u.Query()
}

// verifyTokenHandshake echoes hub.challenge to who knows the verify token, and to nobody
// without one.
func verifyTokenHandshake(v *Verifier, r Request) *Answer {
	q := query(r)
	c := q.Get("hub.challenge")
	if q.Get("hub.mode") != "subscribe" || !isPlain(c) {
		return nil
	}
	if v.verifyToken == "" || !sameToken(q.Get("hub.verify_token"), v.verifyToken) {
		return &Answer{Status: http.StatusForbidden}
	}
	return plainAnswer(c)
}

// xHandshake proves with the first secret that the endpoint has it.
func xHandshake(v *Verifier, r Request) *Answer {
	token := query(r).Get("crc_token")
	if !isOpaque(token) {
		return nil
	}
	return jsonAnswer(map[string]string{"response_token": "sha256=" + base64.StdEncoding.EncodeToString(v.sign(token))})
}

// xContent is the body. One that xHandshake would sign for anybody who asks is refused:
// nobody can tell who made its signature. What X sends is a JSON object.
func xContent(r Request, m *message) error {
	if len(r.Body) <= maxOpaque && isOpaque(string(r.Body)) {
		return refuse("the body is not a JSON object, as X sends it")
	}
	return bodyAlone(r, m)
}

func oktaHandshake(_ *Verifier, r Request) *Answer {
	c := r.Header.Get("X-Okta-Verification-Challenge")
	if r.Method != http.MethodGet || !isPlain(c) {
		return nil
	}
	return jsonAnswer(map[string]string{"verification": c})
}
