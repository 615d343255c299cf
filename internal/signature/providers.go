package signature

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/url"
	"slices"
	"strings"
	"time"
)

// What the presets of single providers need beyond the common shapes.

// readToken reads a secret that is sent as it is.
func readToken(p *preset, r Request, m *message) error {
	value, err := header(r, p.headers[0].signature)
	if err == nil {
		m.add(versionToken, value)
	}
	return err
}

// gitlabToken is where GitLab sends a webhook's secret token as it is.
const gitlabToken = "X-Gitlab-Token"

// readGitLab reads the secret token, the signature of the newer signing token, or both.
func readGitLab(p *preset, r Request, m *message) error {
	_, signed := r.Header[p.headers[0].signature]
	if _, ok := r.Header[gitlabToken]; ok || !signed {
		value, err := header(r, gitlabToken)
		if err != nil {
			return err
		}
		m.add(versionToken, value)
	}
	if signed {
		return readHeaders(p, r, m)
	}
	return nil
}

// linearTime is when Linear sent a request, which it says in the body.
func linearTime(r Request) (time.Time, error) {
	fields, err := members(r.Body)
	if err != nil {
		return time.Time{}, refuse("the body is not a JSON object")
	}
	stamp, ok := fields["webhookTimestamp"]
	if !ok {
		return time.Time{}, refuse("the body has no webhookTimestamp")
	}
	return millis.parse(string(stamp))
}

// hubspotEscapes are what HubSpot decodes in a URL before it signs it, and nothing else.
var hubspotEscapes = func() *strings.Replacer {
	var pairs []string
	for _, c := range ":/?@!$'()*,;" {
		escape := fmt.Sprintf("%%%02X", c)
		pairs = append(pairs, escape, string(c), strings.ToLower(escape), string(c))
	}
	return strings.NewReplacer(pairs...)
}()

// hubspotContent is the method, the URL, the body and the time, without separators.
func hubspotContent(r Request, m *message) error {
	m.head = append(append(m.head, r.Method...), hubspotEscapes.Replace(r.URL)...)
	m.body = r.Body
	m.tail = append(m.tail, m.stamp...)
	return nil
}

// twilioContent is the URL (left in m.id: the checker tries its forms) and the parameters of
// a form, by name. Any other body is signed by its hash in the URL.
func twilioContent(r Request, m *message) error {
	m.id = r.URL
	if !strings.Contains(r.URL, "://") {
		return refuse("the request's URL is not known")
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "application/x-www-form-urlencoded" {
		form, err := url.ParseQuery(string(r.Body))
		if err != nil {
			return refuse("the body is not a valid form")
		}
		for _, name := range slices.Sorted(maps.Keys(form)) {
			values := form[name]
			slices.Sort(values)
			for _, value := range slices.Compact(values) {
				m.tail = append(append(m.tail, name...), value...)
			}
		}
		return nil
	}
	u, err := url.Parse(r.URL)
	if err != nil {
		return refuse("the request's URL cannot be read")
	}
	sums := u.Query()["bodySHA256"]
	if len(sums) == 0 && len(r.Body) == 0 {
		return nil
	}
	if len(sums) != 1 {
		return refuse("the request has a body that is no form, and no bodySHA256 in its URL")
	}
	sum := sha256.Sum256(r.Body)
	if !strings.EqualFold(sums[0], hex.EncodeToString(sum[:])) { // not secret: it is in the URL, which is signed
		return refuse("the body is not the one that bodySHA256 in the URL was made of")
	}
	return nil
}

func twilioKey(secret []byte) (checker, error) {
	if len(secret) == 0 {
		return nil, errEmptySecret
	}
	return twilioChecker{newHMAC("", sha1.New, inBase64, secret)}, nil
}

// twilioChecker tries the URL as it is configured, without its port and with the scheme's:
// Twilio signs any of them.
type twilioChecker struct{ *hmacKey }

func (k twilioChecker) check(m *message) bool {
	begin := strings.Index(m.id, "://") + len("://")
	end := begin + strings.IndexAny(m.id[begin:]+"/", "/?#")
	host := m.id[begin:end]
	name := host
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		name = host[:i]
	}
	port := ":443"
	if strings.HasPrefix(m.id, "http:") {
		port = ":80"
	}
	for _, h := range []string{host, name, name + port} {
		m.head = append(append(append(m.head[:0], m.id[:begin]...), h...), m.id[end:]...)
		if k.hmacKey.check(m) {
			return true
		}
	}
	return false
}

// readPayPal reads a transmission. Its certificate's URL is not followed: the certificate is
// part of the secret.
func readPayPal(p *preset, r Request, m *message) error {
	algorithm, err := header(r, "Paypal-Auth-Algo")
	if err != nil {
		return err
	}
	if algorithm != "SHA256withRSA" {
		return refuse("the Paypal-Auth-Algo header is not SHA256withRSA")
	}
	return readHeaders(p, r, m)
}

// paypalKey checks PayPal's signature of "id|time|webhook id|CRC-32 of the body". The CRC
// binds the body weakly: who holds one signed transmission can make another body for it,
// within the tolerance. A repeated transmission id is a duplicate.
type paypalKey struct {
	webhookID string
	public    *rsa.PublicKey
}

// paypalSecret reads the id of the webhook, a line feed, and PayPal's certificate in PEM.
func paypalSecret(secret []byte) (checker, error) {
	id, certificate, ok := bytes.Cut(bytes.TrimSpace(secret), []byte("\n"))
	if block, _ := pem.Decode(certificate); ok && block != nil && block.Type == "CERTIFICATE" {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err == nil {
			if public, ok := cert.PublicKey.(*rsa.PublicKey); ok {
				return &paypalKey{string(bytes.TrimSpace(id)), public}, nil
			}
		}
	}
	return nil, errors.New("the secret is not the webhook's id, a line feed and the certificate (PEM, RSA) that PAYPAL-CERT-URL leads to")
}

func (k *paypalKey) check(m *message) bool {
	signed := fmt.Sprintf("%s|%s|%s|%d", m.id, m.stamp, k.webhookID, crc32.ChecksumIEEE(m.body))
	digest := sha256.Sum256([]byte(signed))
	for _, c := range m.signatures[:m.n] {
		if len(c.text) != inBase64.length(k.public.Size()) {
			continue
		}
		signature := make([]byte, len(c.text))
		n, err := inBase64.decode(signature, []byte(c.text))
		if err == nil && rsa.VerifyPKCS1v15(k.public, crypto.SHA256, digest[:], signature[:n]) == nil {
			return true
		}
	}
	return false
}

// readMailgun reads the three fields of Mailgun's signature, from JSON or a form.
func readMailgun(p *preset, r Request, m *message) (err error) {
	var fields map[string]string
	switch kind, params, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind {
	case "application/x-www-form-urlencoded":
		fields, err = formFields(r.Body)
	case "multipart/form-data":
		fields, err = multipartFields(r.Body, params["boundary"])
	default:
		fields, err = jsonFields(r.Body, "signature")
	}
	if err != nil {
		return refuse("the body holds no signature: %v", err)
	}
	m.stamp, m.id = fields["timestamp"], fields["token"]
	if m.stamp == "" || m.id == "" || fields["signature"] == "" {
		return refuse("the body's signature lacks its timestamp, token or signature")
	}
	m.add("", fields["signature"])
	m.at, err = p.unit.parse(m.stamp)
	return err
}

func formFields(body []byte) (map[string]string, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, errors.New("it is not a valid form")
	}
	fields := map[string]string{}
	for name, values := range form {
		if len(values) == 1 {
			fields[name] = values[0]
		}
	}
	return fields, nil
}

// multipartFields are the fields of a form that are no files, up to 1 KiB of each.
func multipartFields(body []byte, boundary string) (map[string]string, error) {
	fields := map[string]string{}
	for parts := multipart.NewReader(bytes.NewReader(body), boundary); ; {
		part, err := parts.NextPart()
		if err == io.EOF {
			return fields, nil
		}
		if err != nil {
			return nil, errors.New("it is not a valid form")
		}
		name := part.FormName()
		value, err := io.ReadAll(io.LimitReader(part, 1<<10))
		if err != nil {
			return nil, errors.New("it is not a valid form")
		}
		if _, twice := fields[name]; twice {
			return nil, fmt.Errorf("it has more than one field %.20q", name)
		}
		fields[name] = string(value)
	}
}

// jsonFields are the strings and numbers of an object that is a member of another.
func jsonFields(body []byte, name string) (map[string]string, error) {
	all, err := members(body)
	if err != nil {
		return nil, err
	}
	inner, err := members(all[name])
	if err != nil {
		return nil, err
	}
	fields := map[string]string{}
	for name, value := range inner {
		fields[name] = text(value)
	}
	return fields, nil
}

// text is a JSON string's content, or a number as it is written; "" for anything else.
func text(value json.RawMessage) string {
	var s string
	if json.Unmarshal(value, &s) == nil {
		return s
	}
	var n json.Number
	if json.Unmarshal(value, &n) == nil {
		return n.String()
	}
	return ""
}

// members are the members of a JSON object. Names count in their exact spelling, and one
// that comes twice is an error: readers of such an object may disagree on what it says.
func members(object []byte) (map[string]json.RawMessage, error) {
	errNone := errors.New("it is not a JSON object")
	d := json.NewDecoder(bytes.NewReader(object))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errNone
	}
	found := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		var value json.RawMessage
		if err != nil || !ok || d.Decode(&value) != nil {
			return nil, errNone
		}
		if _, twice := found[name]; twice {
			return nil, fmt.Errorf("it has more than one member %.20q", name)
		}
		found[name] = value
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return nil, errNone
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errNone
	}
	return found, nil
}

// part is one item of a body that signs its items one by one.
type part struct {
	content   []byte
	signature string
}

// readAdyen reads the header that signs the whole body, or else the items of a standard
// webhook, each of which signs eight of its fields.
func readAdyen(p *preset, r Request, m *message) error {
	if _, ok := r.Header[p.headers[0].signature]; ok {
		return readHeaders(p, r, m)
	}
	fields, err := members(r.Body)
	if err != nil {
		return refuse("the request has no %s header, and its body cannot be read: %v", p.headers[0].signature, err)
	}
	var items []json.RawMessage
	if json.Unmarshal(fields["notificationItems"], &items) != nil || len(items) == 0 {
		return refuse("the request has no %s header and no notificationItems", p.headers[0].signature)
	}
	for i, item := range items {
		part, err := adyenItem(item)
		if err != nil {
			return refuse("notification item %d cannot be read: %v", i, err)
		}
		m.parts = append(m.parts, part)
	}
	return nil
}

func adyenItem(raw json.RawMessage) (part, error) {
	outer, err := members(raw)
	if err != nil {
		return part{}, err
	}
	item, err := members(outer["NotificationRequestItem"])
	if err != nil {
		return part{}, err
	}
	amount, err := members(item["amount"])
	if err != nil {
		return part{}, fmt.Errorf("amount: %w", err)
	}
	additional, err := members(item["additionalData"])
	if err != nil {
		return part{}, fmt.Errorf("additionalData: %w", err)
	}
	signed := strings.Join([]string{
		text(item["pspReference"]), text(item["originalReference"]), text(item["merchantAccountCode"]), text(item["merchantReference"]),
		text(amount["value"]), text(amount["currency"]), text(item["eventCode"]), text(item["success"]),
	}, ":")
	return part{[]byte(signed), text(additional["hmacSignature"])}, nil
}

// adyenSecret reads a key in hex.
func adyenSecret(secret []byte) (checker, error) {
	key, err := hex.DecodeString(string(secret))
	if err != nil || len(key) == 0 {
		return nil, errors.New("the secret is not the HMAC key in hex digits")
	}
	return adyenKey{newHMAC("", sha256.New, inBase64, key)}, nil
}

// adyenKey accepts a message without parts as it is, and one with parts if it signed all.
type adyenKey struct{ *hmacKey }

func (k adyenKey) check(m *message) bool {
	if len(m.parts) == 0 {
		return k.hmacKey.check(m)
	}
	for _, p := range m.parts {
		one := message{head: p.content}
		one.add("", p.signature)
		if !k.hmacKey.check(&one) {
			return false
		}
	}
	return true
}
