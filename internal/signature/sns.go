package signature

import (
	"crypto"
	"crypto/rsa"
	_ "crypto/sha1"
	_ "crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/jsonpath"
)

// This file checks messages of Amazon SNS:
// docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html. Anybody with an account
// can have a message signed. So the topic must be one that the endpoint names, which is checked
// before any URL of the message is used, and URLs must lead to Amazon's own hosts.

// topicARN matches the name of a topic; its groups are the partition and the region. It is compiled when it is first
// used, because that takes milliseconds.
var topicARN = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^arn:(aws[a-z-]{0,16}):sns:([a-z]{2}[a-z0-9-]{3,30}):[0-9]{12}:[A-Za-z0-9_-]{1,256}(?:\.fifo)?$`)
})

// maxSNS is the longest body, in bytes: 256 KiB of text; each byte may be an escape of
// six, and the members around it.
const maxSNS = 2 << 20

// maxTopics is how many topics an endpoint may name.
const maxTopics = 50

// snsMessage holds the parts of an SNS message that its check needs.
type snsMessage struct {
	kind, topic, version, signature, certURL, subscribeURL string

	members map[string][]byte // members, as JSON text
}

// The signed members of each kind of message, in the order of signing.
var (
	snsNotification = []string{"Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"}
	snsConfirmation = []string{"Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"}
)

// snsMembers holds all members that are read.
var snsMembers = []string{
	"Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type",
	"SignatureVersion", "Signature", "SigningCertURL",
}

// readSNS parses a message. Callers must not trust its contents before the signature is checked.
// It copies no long member, because anybody can send one.
func readSNS(body []byte) (m snsMessage, err error) {
	if len(body) > maxSNS {
		return m, refuse("the body is longer than a message of SNS")
	}
	values, err := jsonpath.Members(body, snsMembers...)
	if err != nil {
		return m, refuse("the body cannot be read: %v; raw message delivery must be off", err)
	}
	m.members = make(map[string][]byte, len(values))
	for i, value := range values {
		if value != nil && string(value) != "null" {
			m.members[snsMembers[i]] = value
		}
	}
	of := func(name string) string { return text(m.members[name]) }
	m.kind, m.topic, m.subscribeURL = of("Type"), of("TopicArn"), of("SubscribeURL")
	m.version, m.signature, m.certURL = of("SignatureVersion"), of("Signature"), of("SigningCertURL")
	if m.signed() == nil {
		return m, refuse("the body is no message of SNS; raw message delivery must be off")
	}
	for _, name := range m.signed() {
		if m.members[name] == nil && name != "Subject" {
			return m, refuse("the message has no %s", name)
		}
	}
	return m, nil
}

// signed returns the names of the members that are signed in a message of its kind; nil if the
// kind is unknown.
func (m *snsMessage) signed() []string {
	switch m.kind {
	case "Notification":
		return snsNotification
	case "SubscriptionConfirmation", "UnsubscribeConfirmation":
		return snsConfirmation
	}
	return nil
}

// digest returns the hash of the signed content. It unescapes one member at a time.
func (m *snsMessage) digest(algorithm crypto.Hash) []byte {
	sum := algorithm.New()
	for _, name := range m.signed() {
		if value := m.members[name]; value != nil {
			io.WriteString(sum, name+"\n")
			io.WriteString(sum, jsonpath.Text(value))
			io.WriteString(sum, "\n")
		}
	}
	return sum.Sum(nil)
}

// amazonURL parses a URL; nil unless it is an https URL of SNS in the topic's region, with the
// standard port and no user.
func amazonURL(raw, topic string) *url.URL {
	parts := topicARN().FindStringSubmatch(topic)
	u, err := url.Parse(raw)
	if parts == nil || err != nil || len(raw) > 2_048 {
		return nil
	}
	host := "sns." + parts[2] + ".amazonaws.com"
	if parts[1] == "aws-cn" {
		host += ".cn"
	}
	if u.Scheme != "https" || u.User != nil || u.Opaque != "" || u.Fragment != "" || u.Host != host && u.Host != host+":443" {
		return nil
	}
	return u
}

// snsCertificate matches the path of a signing certificate.
var snsCertificate = regexp.MustCompile(`^/SimpleNotificationService-[A-Za-z0-9]{1,64}\.pem$`)

// verifySNS checks a message: first the topic, then the certificate's URL, then the signature.
func verifySNS(v *Verifier, r Request, now time.Time) error {
	m, err := readSNS(r.Body)
	if err != nil {
		return err
	}
	if !slices.Contains(v.topics, m.topic) {
		return refuse("the message is of a topic that topic_arns does not name")
	}
	var algorithm crypto.Hash
	switch m.version {
	case "1":
		algorithm = crypto.SHA1
	case "2":
		algorithm = crypto.SHA256
	default:
		return refuse("the message's SignatureVersion is not 1 or 2")
	}
	signature, err := base64.StdEncoding.DecodeString(m.signature)
	if err != nil || len(signature) == 0 || len(signature) > 1_024 {
		return refuse("the message's Signature is not base64")
	}
	u := amazonURL(m.certURL, m.topic)
	if u == nil || u.RawQuery != "" || !snsCertificate.MatchString(u.Path) {
		return refuse("the message's SigningCertURL is not one of Amazon SNS in the topic's region")
	}
	text, _, err := v.remote.get("https://"+u.Hostname()+u.Path, 24*time.Hour, func([]byte) bool { return true })
	if err != nil {
		return notFetched("the certificate of Amazon SNS")
	}
	public := certificateKey(text, now)
	if public == nil {
		return refuse("the message's SigningCertURL leads to no certificate (RSA) that is valid now")
	}
	if rsa.VerifyPKCS1v15(public, algorithm, m.digest(algorithm), signature) != nil {
		return refuse("the message's signature was not made over what arrived")
	}
	return nil
}

// certificateKey returns the RSA key of a PEM certificate; nil unless it is valid at now.
func certificateKey(text []byte, now time.Time) *rsa.PublicKey {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return nil
	}
	public, _ := cert.PublicKey.(*rsa.PublicKey)
	return public
}

// confirmSNS confirms a subscription by requesting its SubscribeURL. verifySNS must have accepted
// the message. If the request fails, the error makes Amazon send the message again.
func confirmSNS(v *Verifier, r Request) (*Answer, error) {
	if r.Method != http.MethodPost || len(r.Body) > 64<<10 {
		return nil, nil
	}
	m, err := readSNS(r.Body)
	if err != nil || m.kind != "SubscriptionConfirmation" {
		return nil, nil // an event
	}
	u := amazonURL(m.subscribeURL, m.topic)
	if u == nil || strings.Trim(u.Path, "/") != "" {
		return nil, refuse("the message's SubscribeURL is not one of Amazon SNS in the topic's region")
	}
	if v.remote.call(u.String()) != nil {
		return nil, notFetched("the SubscribeURL")
	}
	return &Answer{Status: http.StatusOK}, nil
}

// checkTopics returns the wrong fields among an endpoint's topics.
func checkTopics(topics []string) (fields []kapsel.FieldError) {
	if len(topics) == 0 || len(topics) > maxTopics {
		return append(fields, field("topic_arns", "must name 1 to %d topics: anybody can have a message signed by Amazon", maxTopics))
	}
	for i, topic := range topics {
		if !topicARN().MatchString(topic) {
			fields = append(fields, kapsel.FieldError{Field: "verification.topic_arns", Detail: "entry " + strconv.Itoa(i) + " is not of the form arn:aws:sns:REGION:ACCOUNT:NAME"})
			break
		}
	}
	return fields
}
