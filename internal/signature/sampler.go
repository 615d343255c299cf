package signature

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"math/big"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Samples are requests that this package signs as a provider does, so that people can try an
// endpoint without openssl. They use the presets' own data: a preset's reader and format also
// write.

// A signer is a checker that can also sign.
type signer interface {
	sign(m *message) (candidate, error)
}

// Sampler signs requests as a provider would, with one secret.
type Sampler struct {
	// Secret is the secret with which an endpoint verifies the requests, as its owner would enter it.
	Secret []byte

	name   string
	preset *preset
	signer signer // nil: the secret itself is sent
	extra  []string
}

// NewSampler returns a sampler for settings that Check accepts, secrets aside. If secret is empty,
// it makes one, together with a private key if the provider uses key pairs. It returns an error if
// only the provider itself can sign: for a public key given as secret, and for providers that sign
// with keys they publish.
func NewSampler(v kapsel.Verification, secret []byte) (*Sampler, error) {
	if isNone(v.Provider) {
		return &Sampler{name: None}, nil
	}
	if p := presets[v.Provider]; p != nil && (p.verify != nil || p.read.write == nil) {
		return nil, fmt.Errorf("only the provider itself can sign requests of %s", v.Provider)
	}
	p, err := presetFor(v)
	if err != nil {
		return nil, err
	}
	s := &Sampler{Secret: secret, name: v.Provider, preset: p}
	if v.Provider == "hmac" {
		s.extra = signedHeaders(withDefaults(v).Signed)
	}
	if len(secret) == 0 {
		if p.pair != nil {
			s.Secret, s.signer, err = p.pair()
			return s, err
		}
		key := make([]byte, 32)
		rand.Read(key)
		s.Secret = []byte(hex.EncodeToString(key)) // valid as text, as hex and as base64
	}
	c, err := p.key(s.Secret)
	if err != nil {
		return nil, err
	}
	if _, token := c.(*tokenKey); token {
		return s, nil
	}
	var ok bool
	if s.signer, ok = c.(signer); !ok {
		return nil, errors.New("the secret is a public key: only the provider has the private one, which signs")
	}
	return s, nil
}

// Sign signs a request as the provider would at now. It gives the request a new delivery ID,
// unless the request has one from an earlier call. It sets headers and, for providers that sign
// there, changes the URL or the body.
func (s *Sampler) Sign(r *Request, now time.Time) error {
	if s.preset == nil {
		return nil
	}
	var id [16]byte
	rand.Read(id[:])
	m := &message{id: hex.EncodeToString(id[:]), at: now, stamp: s.preset.unit.format(now)}
	for i, name := range s.preset.delivery {
		if had := r.Header.Get(name); had != "" {
			m.id = had
		} else if i == 0 {
			r.Header.Set(name, m.id)
		}
	}
	for _, name := range s.extra {
		if r.Header.Get(name) == "" {
			r.Header.Set(name, "sample")
		}
	}
	return s.preset.read.write(s, r, m)
}

// format formats a time as parse reads it.
func (u unit) format(at time.Time) string {
	switch u {
	case rfc3339:
		return at.UTC().Format(time.RFC3339)
	case millis:
		return strconv.FormatInt(at.UnixMilli(), 10)
	}
	return strconv.FormatInt(at.Unix(), 10)
}

// signedHeaders returns the headers that a template of provider "hmac" names.
func signedHeaders(text string) (names []string) {
	t, err := parseTemplate(text)
	if err != nil {
		return nil
	}
	for _, p := range append(t.head, t.tail...) {
		if p.field == "header" {
			names = append(names, p.name)
		}
	}
	return names
}

// toHeaders is the reverse of fromHeaders.
func toHeaders(s *Sampler, r *Request, m *message) error {
	p := s.preset
	h := p.headers[0]
	if h.id != "" {
		r.Header.Set(h.id, m.id)
	}
	if h.time != "" {
		r.Header.Set(h.time, m.stamp)
	}
	if err := p.content(*r, m); err != nil {
		return err
	}
	c, err := s.signer.sign(m)
	if err != nil {
		return err
	}
	r.Header.Set(h.signature, p.format.write(p, m.stamp, c))
	return nil
}

// toToken is the reverse of fromToken.
func toToken(s *Sampler, r *Request, _ *message) error {
	r.Header.Set(s.preset.headers[0].signature, string(s.Secret))
	return nil
}

// toBearer is the reverse of fromAccessToken.
func toBearer(s *Sampler, r *Request, _ *message) error {
	r.Header.Set("Authorization", "Bearer "+string(s.Secret))
	return nil
}

// toBasic is the reverse of fromBasic.
func toBasic(s *Sampler, r *Request, _ *message) error {
	r.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString(s.Secret))
	return nil
}

// toQuery is the reverse of fromQuery.
func toQuery(s *Sampler, r *Request, _ *message) error {
	separator := "?"
	if strings.Contains(r.URL, "?") {
		separator = "&"
	}
	r.URL += separator + url.QueryEscape(s.preset.sharedQuery[0]) + "=" + url.QueryEscape(string(s.Secret))
	return nil
}

// toBody replaces the placeholder for the secret in the body.
func toBody(s *Sampler, r *Request, _ *message) error {
	text, err := json.Marshal(string(s.Secret))
	if err != nil {
		return err
	}
	r.Body = []byte(strings.ReplaceAll(string(r.Body), `"`+placeSecret+`"`, string(text)))
	return nil
}

// toGitLab sends the secret token, or signs with the signing token.
func toGitLab(s *Sampler, r *Request, m *message) error {
	if s.signer != nil {
		return toHeaders(s, r, m)
	}
	r.Header.Set(gitlabToken, string(s.Secret))
	return nil
}

// toMailgun is the reverse of fromMailgun, for JSON.
func toMailgun(s *Sampler, r *Request, m *message) error {
	if err := s.preset.content(*r, m); err != nil {
		return err
	}
	c, err := s.signer.sign(m)
	if err != nil {
		return err
	}
	var body map[string]any
	if err := json.Unmarshal(r.Body, &body); err != nil {
		return fmt.Errorf("the body of a sample of mailgun must be a JSON object: %w", err)
	}
	body["signature"] = map[string]string{"timestamp": m.stamp, "token": m.id, "signature": c.text}
	r.Body, err = json.Marshal(body)
	return err
}

// toPayPal is the reverse of fromPayPal.
func toPayPal(s *Sampler, r *Request, m *message) error {
	r.Header.Set("Paypal-Auth-Algo", "SHA256withRSA")
	return toHeaders(s, r, m)
}

func (k *hmacKey) sign(m *message) (candidate, error) {
	mac := k.hashes.New().(hash.Hash)
	if !m.write(mac) {
		return candidate{}, errors.New("the body cannot be decoded")
	}
	return candidate{k.version, k.encoding.encode(mac.Sum(nil))}, nil
}

func (k anyKey) sign(m *message) (candidate, error) { return k["sha256"].sign(m) }

// sign signs the URL as configured, with the secret as an auth token.
func (k twilioChecker) sign(m *message) (candidate, error) {
	m.head = append(m.head[:0], m.id...)
	return k.token.sign(m)
}

// standardPair makes a secret in the form that senders of Standard Webhooks give out: not all
// their libraries accept one without whsec_.
func standardPair() ([]byte, signer, error) {
	var key [32]byte
	rand.Read(key[:])
	return []byte("whsec_" + base64.StdEncoding.EncodeToString(key[:])), newHMAC(versionHMAC, sha256.New, inBase64, key[:]), nil
}

// privateEd25519 is the private key for an ed25519Key.
type privateEd25519 struct {
	key      ed25519.PrivateKey
	encoding encoding
}

func (k privateEd25519) sign(m *message) (candidate, error) {
	signed := append(append(append([]byte{}, m.head...), m.body...), m.tail...)
	return candidate{"", k.encoding.encode(ed25519.Sign(k.key, signed))}, nil
}

func hexEd25519Pair() ([]byte, signer, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	return []byte(hex.EncodeToString(public)), privateEd25519{private, inHex}, err
}

// privateP256 is the private key for an ecdsaKey.
type privateP256 struct{ *ecdsa.PrivateKey }

func (k privateP256) sign(m *message) (candidate, error) {
	h := sha256.New()
	m.write(h)
	signature, err := ecdsa.SignASN1(rand.Reader, k.PrivateKey, h.Sum(nil))
	return candidate{"", inBase64.encode(signature)}, err
}

func p256Pair() ([]byte, signer, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	return []byte(base64.StdEncoding.EncodeToString(der)), privateP256{private}, err
}

// privatePayPal is the private key for a paypalKey.
type privatePayPal struct {
	webhookID string
	key       *rsa.PrivateKey
}

func (k privatePayPal) sign(m *message) (candidate, error) {
	digest := sha256.Sum256([]byte(fmt.Sprintf("%s|%s|%s|%d", m.id, m.stamp, k.webhookID, crc32.ChecksumIEEE(m.body))))
	signature, err := rsa.SignPKCS1v15(rand.Reader, k.key, crypto.SHA256, digest[:])
	return candidate{"", inBase64.encode(signature)}, err
}

func paypalPair() ([]byte, signer, error) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	certificate := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a sample, not PayPal"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, certificate, certificate, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	const id = "8PT597110X687430LKGECATA"
	return append([]byte(id+"\n"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...), privatePayPal{id, private}, nil
}
