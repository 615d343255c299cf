package signature

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"mime"
	"mime/multipart"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel/internal/jsonpath"
)

// This file has the code that single providers need beyond the common shapes.

// gitlabToken is the header in which GitLab sends a webhook's secret token.
const gitlabToken = "X-Gitlab-Token"

// readGitLab reads the secret token, the signature made with the newer signing token, or both.
var readGitLab = reader{fromGitLab, toGitLab}

func fromGitLab(p *preset, r Request, m *message) error {
	_, signed := r.Header[p.headers[0].signature]
	if _, ok := r.Header[gitlabToken]; ok || !signed {
		value, err := header(r, gitlabToken)
		if err != nil {
			return err
		}
		m.add(versionToken, value)
	}
	if signed {
		return fromHeaders(p, r, m)
	}
	return nil
}

// linearTime returns when Linear sent a request, which the body says.
func linearTime(r Request) (time.Time, error) {
	fields, err := jsonpath.Members(r.Body, "webhookTimestamp")
	if err != nil {
		return time.Time{}, refuse("the body's webhookTimestamp cannot be read: %v", err)
	}
	return millis.parse(string(fields[0]))
}

// hubspotEscapes decodes the escapes of a URL that HubSpot decodes before signing, and no others.
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

// twilioContent is the URL and the parameters of a form, sorted by name. It leaves the URL in
// m.id, because the checker tries several forms of it. Other bodies are signed by their hash,
// which is in the URL.
func twilioContent(r Request, m *message) error {
	m.id = r.URL
	if !strings.Contains(r.URL, "://") {
		return refuse("the request's URL is not known")
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "application/x-www-form-urlencoded" {
		form, err := sortedForm(r.Body)
		if err != nil {
			return err
		}
		for i, pair := range form {
			if i == 0 || byName(form[i-1], pair) != 0 {
				m.fields = append(m.fields, pair[0], pair[1])
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
	if !strings.EqualFold(sums[0], hex.EncodeToString(sum[:])) { // no constant time needed: the hash is in the URL and not secret
		return refuse("the body is not the one that bodySHA256 in the URL was made of")
	}
	return nil
}

// sortedForm returns the fields of a form, sorted with byName.
func sortedForm(body []byte) (form [][2][]byte, err error) {
	for pair, err := range formPairs(body, nil) {
		if err != nil {
			return nil, refuse("the body cannot be read: %v", err)
		}
		form = append(form, pair)
	}
	slices.SortFunc(form, byName)
	return form, nil
}

// mailchimpContent is the URL and the fields of the form, sorted by name, without separators.
func mailchimpContent(r Request, m *message) error {
	form, err := sortedForm(r.Body)
	if err != nil {
		return err
	}
	m.head = append(m.head, r.URL...)
	for _, pair := range form {
		m.fields = append(m.fields, pair[0], pair[1])
	}
	return nil
}

// Bounds of a request of Microsoft Graph. Real ones have some tens of notifications, each with at
// most 255 characters of clientState.
const (
	maxGraphItems  = 1_000
	maxClientState = 512 // bytes of its JSON text
)

// readGraph reads the clientState of every notification; all must be the secret. They are part of
// the body, which is stored and forwarded unchanged.
var readGraph = reader{fromGraph, toBody}

func fromGraph(_ *preset, r Request, m *message) error {
	fields, err := members(r.Body, "value")
	if err != nil {
		return refuse("the body cannot be read: %v", err)
	}
	n := 0
	for item, err := range jsonpath.Elements(fields[0]) {
		if n++; err != nil || n > maxGraphItems {
			return refuse("the body has no list of 1 to %d notifications", maxGraphItems)
		}
		state, err := jsonpath.Members(item, "clientState")
		if err != nil {
			return refuse("a notification cannot be read: %v", err)
		}
		value := ""
		if len(state[0]) <= maxClientState {
			value = text(state[0])
		}
		if n > 1 && !sameToken(m.signatures[0].text, value) {
			return refuse("the notifications have clientStates that differ")
		}
		m.n = 0
		m.add(versionToken, value)
	}
	if n == 0 {
		return refuse("the body has no list of 1 to %d notifications", maxGraphItems)
	}
	return nil
}

// readAccessToken reads the access token of a CloudEvents webhook from Authorization or, without
// that header, from the query.
var readAccessToken = reader{fromAccessToken, toBearer}

func fromAccessToken(p *preset, r Request, m *message) error {
	if _, ok := r.Header["Authorization"]; ok {
		return fromToken(p, r, m)
	}
	return fromQuery(p, r, m)
}

// byName compares two fields of a form by name, then by value.
func byName(a, b [2][]byte) int {
	for i := range a {
		switch { // compared without a copy
		case string(a[i]) < string(b[i]):
			return -1
		case string(a[i]) > string(b[i]):
			return 1
		}
	}
	return 0
}

func twilioKey(secret []byte) (checker, error) {
	if len(secret) == 0 {
		return nil, errEmptySecret
	}
	return twilioChecker{newHMAC("", sha1.New, inBase64, secret), newHMAC("", sha256.New, inBase64, secret)}, nil
}

// twilioChecker tries three forms of the URL, because Twilio may sign any of them: as configured,
// without a port, and with the scheme's default port. An auth token signs with SHA-1 and a shared
// key with SHA-256; the length of the signature tells which, as does the header
// X-Twilio-Webhooks-Signature-Settings.
type twilioChecker struct{ token, shared *hmacKey }

func (k twilioChecker) check(m *message) bool {
	key := k.token
	if m.n > 0 && len(m.signatures[0].text) == inBase64.length(sha256.Size) {
		key = k.shared
	}
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
	forms := []string{host, name, name + port}
	slices.Sort(forms)
	for _, h := range slices.Compact(forms) {
		m.head = append(append(append(m.head[:0], m.id[:begin]...), h...), m.id[end:]...)
		if key.check(m) {
			return true
		}
	}
	return false
}

// readPayPal reads a transmission. It does not fetch the certificate from its URL: the certificate
// is part of the secret.
var readPayPal = reader{fromPayPal, toPayPal}

func fromPayPal(p *preset, r Request, m *message) error {
	algorithm, err := header(r, "Paypal-Auth-Algo")
	if err != nil {
		return err
	}
	if algorithm != "SHA256withRSA" {
		return refuse("the Paypal-Auth-Algo header is not SHA256withRSA")
	}
	return fromHeaders(p, r, m)
}

// paypalKey checks PayPal's signature of "id|time|webhook id|CRC-32 of the body". The CRC binds
// the body only weakly: whoever has one signed transmission can make another body for it, within
// the tolerance. A repeated transmission ID is a duplicate.
type paypalKey struct {
	webhookID string
	public    *rsa.PublicKey
}

// paypalSecret reads the webhook's ID, a line feed, and PayPal's certificate in PEM.
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

// mailgunFields holds the names of the fields of Mailgun's signature.
var mailgunFields = []string{"timestamp", "token", "signature"}

// readMailgun reads the three fields of Mailgun's signature, from JSON or a form.
var readMailgun = reader{fromMailgun, toMailgun}

func fromMailgun(p *preset, r Request, m *message) (err error) {
	var fields []string
	switch kind, params, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind {
	case "application/x-www-form-urlencoded":
		fields, err = formFields(r.Body, mailgunFields)
	case "multipart/form-data":
		fields, err = multipartFields(r.Body, params["boundary"], mailgunFields)
	default:
		fields, err = jsonFields(r.Body, "signature", mailgunFields)
	}
	if err != nil {
		return refuse("the body holds no signature: %v", err)
	}
	var signature string
	m.stamp, m.id, signature = fields[0], fields[1], fields[2]
	if m.stamp == "" || m.id == "" || signature == "" {
		return refuse("the body's signature lacks its timestamp, token or signature")
	}
	m.add("", signature)
	m.at, err = p.unit.parse(m.stamp)
	return err
}

// Bounds of parsing a body before its sender is known.
const (
	maxField  = 4 << 10 // bytes of a field, before decoding
	maxFields = 10_000  // fields of a form
	maxParts  = 1_000   // parts of a multipart form, which cost more than fields
	maxMarks  = 300_000 // commas and opening brackets in JSON, including those in strings
)

var errNoForm = errors.New("it is not a valid form")

// formPairs yields the names and values of a form, in their order, up to maxFields of them. A name
// or value that is not valid yields an error and ends the sequence. formPairs allocates at most a
// copy of the body. If wanted is not nil, it skips other names and fields longer than maxField,
// and a yielded pair is valid only until the next one.
func formPairs(body []byte, wanted []string) iter.Seq2[[2][]byte, error] {
	return func(yield func([2][]byte, error) bool) {
		if bytes.Count(body, []byte("&")) >= maxFields {
			yield([2][]byte{}, fmt.Errorf("it has more than %d fields", maxFields))
			return
		}
		var room []byte // buffer for unescaped text, which is never longer than its escaped form
		size := len(body)
		if wanted != nil {
			size = min(size, 2*maxField)
		}
		for pair := range bytes.SplitSeq(body, []byte("&")) {
			if len(pair) == 0 {
				continue
			}
			key, value, _ := bytes.Cut(pair, []byte("="))
			if wanted != nil {
				if room = room[:0]; len(key) > maxField || len(value) > maxField {
					continue
				}
			}
			name, ok := unescape(&room, key, size)
			if wanted != nil && (!ok || indexOf(wanted, name) < 0) {
				continue
			}
			text, valid := unescape(&room, value, size)
			if !ok || !valid {
				yield([2][]byte{}, errNoForm)
				return
			}
			if !yield([2][]byte{name, text}, nil) {
				return
			}
		}
	}
}

// unescape decodes a name or value of a form. It returns b itself if nothing in it is escaped,
// otherwise a slice of room, which it allocates with a capacity of size on first use. It returns
// false if an escape is not valid.
func unescape(room *[]byte, b []byte, size int) ([]byte, bool) {
	if !bytes.ContainsAny(b, "%+") {
		return b, true
	}
	if cap(*room) == 0 {
		*room = make([]byte, 0, size)
	}
	start := len(*room)
	for i := 0; i < len(b); i++ {
		c := b[i]
		switch {
		case c == '+':
			c = ' '
		case c == '%':
			var decoded [1]byte
			if i+2 >= len(b) {
				return nil, false
			}
			if _, err := hex.Decode(decoded[:], b[i+1:i+3]); err != nil {
				return nil, false
			}
			c, i = decoded[0], i+2
		}
		*room = append(*room, c)
	}
	return (*room)[start:len(*room):len(*room)], true
}

// indexOf is slices.Index without a copy of the name.
func indexOf(names []string, name []byte) int {
	for i := range names {
		if names[i] == string(name) {
			return i
		}
	}
	return -1
}

// formFields returns the values of the named fields of a form; "" for fields that are missing or
// longer than maxField. It skips all others.
func formFields(body []byte, names []string) ([]string, error) {
	f := onceEach{names: names, values: make([]string, len(names))}
	for pair, err := range formPairs(body, names) {
		if err != nil {
			return nil, err
		}
		if err := f.set(indexOf(names, pair[0]), string(pair[1])); err != nil {
			return nil, err
		}
	}
	return f.values, nil
}

// onceEach holds the values of named fields. A field that comes twice is an error, because readers
// may disagree on which one counts.
type onceEach struct {
	names, values []string
	seen          uint
}

func (f *onceEach) set(i int, value string) error {
	if f.seen&(1<<i) != 0 {
		return fmt.Errorf("it has more than one field %q", f.names[i])
	}
	f.seen |= 1 << i
	f.values[i] = value
	return nil
}

// multipartFields returns the values of the named fields of a multipart form, up to maxField bytes
// of each; "" for missing ones. It skips all others.
func multipartFields(body []byte, boundary string, names []string) ([]string, error) {
	f := onceEach{names: names, values: make([]string, len(names))}
	parts := multipart.NewReader(bytes.NewReader(body), boundary)
	for range maxParts {
		part, err := parts.NextPart()
		if err == io.EOF {
			return f.values, nil
		}
		if err != nil {
			return nil, errNoForm
		}
		i := slices.Index(names, part.FormName())
		if i < 0 {
			continue
		}
		value, err := io.ReadAll(io.LimitReader(part, maxField))
		if err != nil {
			return nil, errNoForm
		}
		if err := f.set(i, string(value)); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("it has more than %d parts", maxParts)
}

// jsonFields returns the strings and numbers with the given names in an object that is itself a
// member of the body.
func jsonFields(body []byte, object string, names []string) ([]string, error) {
	outer, err := members(body, object)
	if err != nil {
		return nil, err
	}
	inner, err := jsonpath.Members(outer[0], names...)
	if err != nil {
		return nil, err
	}
	fields := make([]string, len(names))
	for i, value := range inner {
		fields[i] = text(value)
	}
	return fields, nil
}

// members returns the named members of a JSON body whose sender is not known yet. It refuses a
// body with more than maxMarks commas and brackets. Counting them costs nearly nothing, whereas
// each skipped value costs as much as hashing some hundred bytes.
func members(body []byte, names ...string) ([][]byte, error) {
	marks := 0
	for _, mark := range []string{",", "[", "{"} {
		marks += bytes.Count(body, []byte(mark))
	}
	if marks > maxMarks {
		return nil, fmt.Errorf("it has more than %d values", maxMarks)
	}
	return jsonpath.Members(body, names...)
}

// text returns kapsel.Text of values of up to maxField bytes; "" for longer ones.
func text(value []byte) string {
	if len(value) > maxField {
		return ""
	}
	return jsonpath.Text(value)
}

// Bounds of Adyen's standard webhook. Real ones have one item of a few kilobytes.
const (
	maxAdyenItems = 100
	maxAdyenItem  = 256 << 10 // bytes
)

// readAdyen reads the header that signs the whole body. If the request has none, it finds the
// items of a standard webhook. Each item carries a signature of eight of its fields. adyenKey
// then reads them one by one, and stops at the first with a wrong signature.
var readAdyen = reader{fromAdyen, toHeaders}

func fromAdyen(p *preset, r Request, m *message) error {
	if _, ok := r.Header[p.headers[0].signature]; ok {
		return fromHeaders(p, r, m)
	}
	fields, err := members(r.Body, "notificationItems")
	if err != nil {
		return refuse("the request has no %s header, and its body cannot be read: %v", p.headers[0].signature, err)
	}
	if m.items = fields[0]; m.items == nil {
		return refuse("the request has no %s header and no notificationItems", p.headers[0].signature)
	}
	return nil
}

// adyenItem returns the signed content of one notification item, and its signature.
func adyenItem(raw []byte) (signed []byte, signature string, err error) {
	outer, err := jsonpath.Members(raw, "NotificationRequestItem")
	if err != nil {
		return nil, "", err
	}
	item, err := jsonpath.Members(outer[0], "pspReference", "originalReference", "merchantAccountCode", "merchantReference",
		"amount", "eventCode", "success", "additionalData")
	if err != nil {
		return nil, "", err
	}
	amount := [][]byte{nil, nil} // without an amount its fields count as empty
	if item[4] != nil {
		if amount, err = jsonpath.Members(item[4], "value", "currency"); err != nil {
			return nil, "", err
		}
	}
	additional, err := jsonpath.Members(item[7], "hmacSignature")
	if err != nil {
		return nil, "", err
	}
	for _, value := range [][]byte{item[0], item[1], item[2], item[3], amount[0], amount[1], item[5], item[6]} {
		field := text(value)
		if field == "" && !isEmpty(value) { // it would be signed as if it were missing, and be read as what it is
			return nil, "", errors.New("a signed field is neither a short text nor a number")
		}
		signed = append(append(signed, field...), ':')
	}
	return signed[:len(signed)-1], text(additional[0]), nil
}

// isEmpty reports whether a member is missing, null or an empty string.
func isEmpty(value []byte) bool {
	value = bytes.TrimSpace(value)
	return len(value) == 0 || string(value) == "null" || string(value) == `""`
}

// adyenSecret reads a key in hex.
func adyenSecret(secret []byte) (checker, error) {
	key, err := hex.DecodeString(string(secret))
	if err != nil || len(key) == 0 {
		return nil, errors.New("the secret is not the HMAC key in hex digits")
	}
	return adyenKey{newHMAC("", sha256.New, inBase64, key)}, nil
}

// adyenKey checks a message without items as a whole. A message with items must have a right
// signature on every item.
type adyenKey struct{ *hmacKey }

func (k adyenKey) check(m *message) bool {
	if m.items == nil {
		return k.hmacKey.check(m)
	}
	n := 0
	for raw, err := range jsonpath.Elements(m.items) {
		if n++; err != nil || n > maxAdyenItems || len(raw) > maxAdyenItem {
			return false
		}
		signed, signature, err := adyenItem(raw)
		if err != nil {
			return false
		}
		one := message{head: signed}
		one.add("", signature)
		if !k.hmacKey.check(&one) {
			return false
		}
	}
	return n > 0
}
