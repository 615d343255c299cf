package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel/internal/jsonpath"
)

// Answer is an answer to a provider in place of the usual body. It may hold the caller's own
// words, so callers must send it with X-Content-Type-Options: nosniff.
type Answer struct {
	Status      int
	ContentType string // "": none
	Body        []byte
	Header      map[string]string // more headers, by canonical name; nil: none
}

// Unsigned returns the answer to a POST that is a challenge which the provider does not sign; nil
// if it is not one. Callers must try it before Verify, and must not store such a request. The
// answer holds only words of the request itself.
func (v *Verifier) Unsigned(r Request) *Answer {
	if v.preset == nil || v.preset.unsigned == nil || r.Method != http.MethodPost {
		return nil
	}
	return v.preset.unsigned(v, r)
}

// Brought returns the secret that a handshake carries, and the answer to send if the secret is
// kept; "" and nil if the request is not such a handshake. Nothing proves who sent it, so callers
// must accept it only while a person awaits it (see kapsel.Verification.AwaitingUntil).
func (v *Verifier) Brought(r Request) (secret string, a *Answer) {
	if v.preset == nil || v.preset.brings == nil || r.Method != http.MethodPost || v.Claims(r) {
		return "", nil
	}
	return v.preset.brings(r)
}

// Brings reports whether the provider sends its secret with a handshake.
func Brings(provider string) bool {
	p := presets[provider]
	return p != nil && p.brings != nil
}

// Shows reports whether people must paste the secret of a handshake back into the provider.
func Shows(provider string) bool { return Brings(provider) && presets[provider].shown }

// HandshakeWindow is how long an endpoint awaits a handshake that carries the secret, and how long
// a person can see that secret.
const HandshakeWindow = 10 * time.Minute

func asanaHandshake(r Request) (string, *Answer) {
	values := r.Header["X-Hook-Secret"]
	if len(values) != 1 || !isPlain(values[0]) || len(values[0]) > maxOpaque {
		return "", nil
	}
	return values[0], &Answer{Status: http.StatusOK, Header: map[string]string{"X-Hook-Secret": values[0]}}
}

func notionHandshake(r Request) (string, *Answer) {
	token := text(challenge(r, "verification_token")[0])
	if !isOpaque(token) {
		return "", nil
	}
	return token, &Answer{Status: http.StatusOK}
}

// Handshake returns the answer to a request that is the provider's challenge and not an event; nil
// if it is not one. Callers must try it for GET, HEAD and OPTIONS requests without Verify, and for
// POST requests only after Verify accepted them, because some answers are made with the endpoint's
// secret. A status of 403 refuses the challenge and has no body. Like Verify, Handshake fails with
// QueueFull if it had to ask the provider and could not, and with InvalidSignature if the
// challenge is not valid.
func (v *Verifier) Handshake(r Request) (*Answer, error) {
	switch {
	case v.preset == nil:
		return nil, nil
	case v.preset.confirm != nil:
		return v.preset.confirm(v, r)
	case v.preset.handshake != nil:
		return v.preset.handshake(v, r), nil
	}
	return nil, nil
}

// Accepted returns the answer that a provider demands for an accepted event; nil: the usual one.
func Accepted(provider string) *Answer {
	if p := presets[provider]; p != nil {
		return p.accepted
	}
	return nil
}

// maxHandshake is the longest body and the longest challenge of a handshake, in bytes.
const maxHandshake = 4 << 10

// challenge returns the named members of the JSON object in a POST that may be a handshake. All
// are nil if it cannot be one.
func challenge(r Request, names ...string) [][]byte {
	if r.Method == http.MethodPost && len(r.Body) <= maxHandshake {
		if fields, err := jsonpath.Members(r.Body, names...); err == nil {
			return fields
		}
	}
	return make([][]byte, len(names))
}

// isPlain reports whether a challenge is 1 to maxHandshake characters of printable ASCII.
func isPlain(s string) bool {
	return s != "" && len(s) <= maxHandshake && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// maxOpaque is the longest challenge that may be signed with a secret, in bytes.
const maxOpaque = 256

// isOpaque reports whether a challenge consists of letters, digits and the other characters of
// base64 and IDs. Nothing else may be signed with a secret: it could be the body of an event.
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
	payload, err := jsonpath.Members(fields[1], "plainToken")
	if err != nil {
		return nil
	}
	token := text(payload[0])
	if !isOpaque(token) {
		return nil
	}
	return jsonAnswer(map[string]string{"plainToken": token, "encryptedToken": hex.EncodeToString(v.sign(token))})
}

// sign returns the HMAC-SHA256 of a text under the first secret.
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

// bitbucketHandshake answers the connection test of Bitbucket Data Center.
func bitbucketHandshake(_ *Verifier, r Request) *Answer {
	if r.Method == http.MethodPost && r.Header.Get("X-Event-Key") == "diagnostics:ping" {
		return &Answer{Status: http.StatusOK}
	}
	return nil
}

// probe returns a handshake that answers 200 to requests with some methods, by which a provider
// checks a URL before accepting it, such as Intercom's HEAD
// (developers.intercom.com/docs/webhooks/setting-up-webhooks).
func probe(methods ...string) func(*Verifier, Request) *Answer {
	return func(_ *Verifier, r Request) *Answer {
		if slices.Contains(methods, r.Method) {
			return &Answer{Status: http.StatusOK}
		}
		return nil
	}
}

// echoQuery returns a handshake that answers a GET with one of its query parameters (Dropbox).
func echoQuery(name string) func(*Verifier, Request) *Answer {
	return func(_ *Verifier, r Request) *Answer {
		if c := query(r).Get(name); isPlain(c) {
			return plainAnswer(c)
		}
		return nil
	}
}

// echoEmpty returns a handshake that answers a POST without a body with one of its query
// parameters.
func echoEmpty(name string) func(*Verifier, Request) *Answer {
	return func(_ *Verifier, r Request) *Answer {
		u, err := url.Parse(r.URL)
		if err != nil || len(r.Body) > 0 {
			return nil
		}
		if c := u.Query().Get(name); isPlain(c) {
			return plainAnswer(c)
		}
		return nil
	}
}

// woocommercePing answers the unsigned form webhook_id=1, which WooCommerce sends when a webhook
// is saved.
func woocommercePing(_ *Verifier, r Request) *Answer {
	id, ok := strings.CutPrefix(string(r.Body[:min(len(r.Body), 64)]), "webhook_id=")
	if ok && len(r.Body) < 64 && id != "" && strings.Trim(id, "0123456789") == "" {
		return &Answer{Status: http.StatusOK}
	}
	return nil
}

// mailchimpTest answers the empty list of events by which Mailchimp tests a URL. It is signed with
// another key.
func mailchimpTest(_ *Verifier, r Request) *Answer {
	switch string(r.Body[:min(len(r.Body), 64)]) {
	case "mandrill_events=%5B%5D", "mandrill_events=[]":
		return &Answer{Status: http.StatusOK}
	}
	return nil
}

// cloudEventsHandshake grants a sender any rate when it asks by OPTIONS, and answers the
// validation event of Azure Event Grid's own schema, which carries the access token.
func cloudEventsHandshake(_ *Verifier, r Request) *Answer {
	origin := r.Header.Get("Webhook-Request-Origin")
	switch {
	case r.Method == http.MethodOptions && isPlain(origin):
		return &Answer{Status: http.StatusOK, Header: map[string]string{
			"Allow": http.MethodPost, "Webhook-Allowed-Origin": origin, "Webhook-Allowed-Rate": "*",
		}}
	case r.Method == http.MethodPost && len(r.Body) <= maxHandshake:
		for event, err := range jsonpath.Elements(r.Body) {
			fields, wrong := jsonpath.Members(event, "eventType", "data")
			if err != nil || wrong != nil || text(fields[0]) != "Microsoft.EventGrid.SubscriptionValidationEvent" {
				return nil
			}
			if data, err := jsonpath.Members(fields[1], "validationCode"); err == nil && isPlain(text(data[0])) {
				return jsonAnswer(map[string]string{"validationResponse": text(data[0])})
			}
		}
	}
	return nil
}

// websubHandshake confirms a subscription. It does not confirm the end of one: a hub asks to
// confirm the end of a subscription that it has, and anybody could have asked the hub for it.
func websubHandshake(_ *Verifier, r Request) *Answer {
	q := query(r)
	if c := q.Get("hub.challenge"); q.Get("hub.mode") == "subscribe" && q.Get("hub.topic") != "" && isPlain(c) {
		return plainAnswer(c)
	}
	return nil
}

func twitchHandshake(_ *Verifier, r Request) *Answer {
	if r.Header.Get("Twitch-Eventsub-Message-Type") != "webhook_callback_verification" {
		return nil
	}
	if c := text(challenge(r, "challenge")[0]); isPlain(c) {
		return plainAnswer(c)
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

// query returns the parameters of a GET; nil for other methods.
func query(r Request) url.Values {
	u, err := url.Parse(r.URL)
	if r.Method != http.MethodGet || err != nil {
		return nil
	}
	return u.Query()
}

// verifyTokenHandshake echoes hub.challenge if the request has the endpoint's verify token. It
// answers 403 if not, or if the endpoint has none.
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

// xContent is the body. It refuses a body that xHandshake would sign for anybody, because such a
// signature proves nothing about its sender. X's own events are JSON objects.
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
