package signature

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Amazon SNS: docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html. Anybody
// with an account can have a message signed, so the topic must be one that the endpoint names,
// before any URL of a message is looked at; and URLs lead to Amazon's own hosts alone.

// topicARN is the name of a topic; its parts are the partition and the region.
var topicARN = regexp.MustCompile(`^arn:(aws[a-z-]{0,16}):sns:([a-z]{2}[a-z0-9-]{3,30}):[0-9]{12}:[A-Za-z0-9_-]{1,256}(?:\.fifo)?$`)

// maxTopics is how many topics an endpoint may name.
const maxTopics = 50

// snsMessage is a message of SNS, as far as its check needs it.
type snsMessage struct {
	kind, topic, version, signature, certURL, subscribeURL string
	signed                                                 []byte
}

// The members of a message, in the order in which they are signed.
var (
	snsNotification = []string{"Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"}
	snsConfirmation = []string{"Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"}
	snsOthers       = []string{"SignatureVersion", "Signature", "SigningCertURL"}
)

// readSNS reads a message. What it holds is not to be trusted before its signature is checked.
func readSNS(body []byte) (m snsMessage, err error) {
	kind, err := kapsel.Members(body, "Type")
	if err != nil {
		return m, refuse("the body cannot be read: %v; raw message delivery must be off", err)
	}
	names := snsNotification
	switch m.kind = text(kind[0]); m.kind {
	case "Notification":
	case "SubscriptionConfirmation", "UnsubscribeConfirmation":
		names = snsConfirmation
	default:
		return m, refuse("the body is no message of SNS; raw message delivery must be off")
	}
	values, err := kapsel.Members(body, append(slices.Clone(names), snsOthers...)...)
	if err != nil {
		return m, refuse("the body cannot be read: %v", err)
	}
	for i, name := range names {
		if values[i] == nil || string(values[i]) == "null" {
			if name != "Subject" {
				return m, refuse("the message has no %s", name)
			}
			continue
		}
		value := kapsel.Text(values[i]) // a message may be long
		switch name {
		case "TopicArn":
			m.topic = value
		case "SubscribeURL":
			m.subscribeURL = value
		}
		m.signed = append(append(append(append(m.signed, name...), '\n'), value...), '\n')
	}
	others := values[len(names):]
	m.version, m.signature, m.certURL = text(others[0]), text(others[1]), text(others[2])
	return m, nil
}

// amazonURL is a URL of the SNS of a topic's region: https, at the standard port, with no user.
func amazonURL(raw, topic string) *url.URL {
	parts := topicARN.FindStringSubmatch(topic)
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

// verifySNS checks a message: the topic, then where its certificate is, then the signature.
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
	if rsa.VerifyPKCS1v15(public, algorithm, digest(algorithm, m.signed), signature) != nil {
		return refuse("the message's signature was not made over what arrived")
	}
	return nil
}

func digest(algorithm crypto.Hash, b []byte) []byte {
	if algorithm == crypto.SHA1 {
		sum := sha1.Sum(b)
		return sum[:]
	}
	sum := sha256.Sum256(b)
	return sum[:]
}

// certificateKey is the RSA key of a certificate in PEM that is valid at now, else nil.
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

// confirmSNS confirms a subscription whose message verifySNS accepted, by asking its
// SubscribeURL. Where that fails, Amazon is to send the message again.
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

// checkTopics is what is wrong with the topics of an endpoint.
func checkTopics(topics []string) (fields []kapsel.FieldError) {
	if len(topics) == 0 || len(topics) > maxTopics {
		return append(fields, field("topic_arns", "must name 1 to %d topics: anybody can have a message signed by Amazon", maxTopics))
	}
	for i, topic := range topics {
		if !topicARN.MatchString(topic) {
			fields = append(fields, kapsel.FieldError{Field: "verification.topic_arns", Detail: "entry " + strconv.Itoa(i) + " is not of the form arn:aws:sns:REGION:ACCOUNT:NAME"})
			break
		}
	}
	return fields
}
