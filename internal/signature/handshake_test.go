package signature

import (
	"net/http"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// TestVerify_XHandshakeIsNoOracle checks that a body that X's handshake would sign for anybody is
// not accepted as a webhook.
func TestVerify_XHandshakeIsNoOracle(t *testing.T) {
	v, err := New(kapsel.Verification{Provider: "x"}, []Key{{Value: []byte("consumer-secret")}}, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	const signed = "sha256=9KjDG3UH93Vq2FdWM1izySmGrHlmTDvYfnTbpgNUQ04=" // the answer to CrcToken-1
	_, err = v.Verify(Request{
		Method: http.MethodPost, Header: http.Header{"X-Twitter-Webhooks-Signature": {signed}}, Body: []byte("CrcToken-1"),
	}, time.Now())
	if kapsel.CodeOf(err) != kapsel.InvalidSignature {
		t.Errorf("a token signed by the handshake passes as a webhook: %v", err)
	}
}
