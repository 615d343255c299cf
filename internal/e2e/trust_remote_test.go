package e2e

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestTrust_ForeignHosts checks that the real binary refuses forged requests in the name of Amazon
// SNS or Google before it asks any host that the request names, even if deliveries may go there.
// Package signature tests which hosts it asks otherwise, because a test asks nobody on the
// internet.
func TestTrust_ForeignHosts(t *testing.T) {
	var asked atomic.Int32
	canary := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer canary.Close()
	plain := httptest.NewServer(canary.Config.Handler)
	defer plain.Close()
	for _, l := range []*httptest.Server{canary, plain} {
		l.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				asked.Add(1)
			}
		}
	}
	w := newWorld(t, "")
	const topic = "arn:aws:sns:eu-west-1:123456789012:orders"
	sns := w.endpoint("sns", map[string]any{"verification": map[string]any{"provider": "aws-sns", "topic_arns": []string{topic}}}).IngestURL
	oidc := w.endpoint("oidc", map[string]any{"verification": map[string]any{
		"provider": "google-oidc", "audience": "https://hooks.example.com", "email": "push@project.iam.gserviceaccount.com",
	}}).IngestURL
	message := func(kind, topic, cert, subscribe string) request {
		return request{nil, `{"Type":"` + kind + `","MessageId":"1","TopicArn":"` + topic + `","Message":"m","Timestamp":"t","Token":"t","SignatureVersion":"1",` +
			`"Signature":"AAAA","SigningCertURL":"` + cert + `","SubscribeURL":"` + subscribe + `"}`}
	}
	const good = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-01.pem"
	const foreign = "arn:aws:sns:eu-west-1:999999999999:orders"
	for what, r := range map[string]request{
		"foreign topic":               message("Notification", foreign, good, ""),
		"foreign topic's":             message("SubscriptionConfirmation", foreign, good, canary.URL),
		"certificate at the canary":   message("Notification", topic, canary.URL+"/SimpleNotificationService-01.pem", ""),
		"certificate by http":         message("Notification", topic, plain.URL+"/SimpleNotificationService-01.pem", ""),
		"certificate at the metadata": message("Notification", topic, "https://169.254.169.254/SimpleNotificationService-01.pem", ""),
		"certificate with a user":     message("Notification", topic, strings.Replace(canary.URL, "https://", "https://sns.eu-west-1.amazonaws.com@", 1)+"/SimpleNotificationService-01.pem", ""),
		"confirmation":                message("SubscriptionConfirmation", topic, canary.URL+"/SimpleNotificationService-01.pem", "http://169.254.169.254/latest/meta-data/"),
	} {
		if status, body, _ := r.send(t, sns); status != 401 {
			t.Errorf("aws-sns, %s: answered %d %s", what, status, body)
		}
	}
	// {"alg":"none","kid":"k1"}, {"alg":"HS256","kid":"k1"} and {"alg":"RS256","kid":"k1","jku":"https://127.0.0.1/"}, each with
	// {"iss":"https://evil.example","aud":"https://hooks.example.com"}.
	const claims = "eyJpc3MiOiJodHRwczovL2V2aWwuZXhhbXBsZSIsImF1ZCI6Imh0dHBzOi8vaG9va3MuZXhhbXBsZS5jb20ifQ"
	for what, token := range map[string]string{
		"alg none":       "eyJhbGciOiJub25lIiwia2lkIjoiazEifQ." + claims + ".",
		"HS256":          "eyJhbGciOiJIUzI1NiIsImtpZCI6ImsxIn0." + claims + ".AAAA",
		"foreign issuer": "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsxIiwiamt1IjoiaHR0cHM6Ly8xMjcuMC4wLjEvIn0." + claims + ".AAAA",
	} {
		if status, body, _ := (request{map[string]string{"Authorization": "Bearer " + token}, "{}"}).send(t, oidc); status != 401 {
			t.Errorf("google-oidc, %s: answered %d %s", what, status, body)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("canaries were asked %d times", n)
	}
}
