package signature

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
)

// customVectors are requests in the forms that provider hmac can be set to, signed by OpenSSL.
var customVectors = []vector{
	{
		name: "hmac, a list of one", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "hmac", Format: "list", Prefix: "v1="},
		secret:       "s", body: `{"id":1}`, hex: true,
		header: map[string]string{"X-Webhook-Signature": "v1=78d89b9e545ad70e654a9291eee7ce4a611059475944b402f295855baaa68843"},
	},
	{
		name: "hmac, pairs", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "hmac", Format: "pairs", Signed: "{time}.{body}"},
		secret:       "s", body: `{"id":1}`, hex: true, at: 1_700_000_000,
		header: map[string]string{"X-Webhook-Signature": "t=1700000000,v1=497650caa88f469b4bfd5b8becb78c6087dd027834a360e7b83e081bdb82d02e"},
	},
	{
		name: "hmac, pairs with milliseconds and spaces", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "hmac", Format: "pairs", Signed: "{time}.{body}", TimeUnit: "milliseconds", Prefix: "sig="},
		secret:       "s", body: `{"id":1}`, hex: true, at: 1_700_000_001, skew: 877 * time.Millisecond,
		header: map[string]string{"X-Webhook-Signature": "ts=1700000000123, sig=8407afc2b10798e629ed06e33d0fc49500e3af391ec6a46630984ad0cd4b4681"},
	},
	{
		name: "hmac, a key in base64", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "hmac", Prefix: "hmac-sha256=", KeyEncoding: "base64"},
		secret:       "AAECAwQFBgcI", body: `{"id":1}`, hex: true,
		header: map[string]string{"X-Webhook-Signature": "hmac-sha256=0301c6ab4daef18a77527e1a82a48a5d5fa061fe3d10886c8ebf452adf5e40bc"},
	},
	{
		name: "hmac, a key in hex", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "hmac", Algorithm: "sha512", Encoding: "base64", KeyEncoding: "hex"},
		secret:       "00ff10", body: `{"id":1}`,
		header: map[string]string{"X-Webhook-Signature": "QCf1iAAu2QxhWP1kGRBP6j8u9rK+JqFqkhWsEjmBz0/pJwvSyUERK8fmQ+Bmgb5K6gfhjxuFSsJl2z+tUGtUvw=="},
	},
	{
		name: "hmac, the body and a header with the time", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "hmac", Encoding: "base64", Signed: "{body}{time}", TimeHeader: "x-time", TimeUnit: "rfc3339"},
		secret:       "s", body: `{"id":1}`, at: 1_700_000_000,
		header: map[string]string{"X-Webhook-Signature": "zf+crjOC0BvTq/JJOn0sN3BAOqMXl7XS+UedfsVhuHs=", "X-Time": "2023-11-14T22:13:20Z"},
	},
	{
		name: "hmac, the body and the URL", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "hmac", Algorithm: "sha1", Encoding: "base64", Signed: "{body}{url}"},
		secret:       "s", body: `{"id":1}`, url: "https://hooks.example.com/ingest/ep_1?a=b",
		header: map[string]string{"X-Webhook-Signature": "BBCc6wrbEWUqLM0CAlcY6GrHsxU="},
	},
	{
		name: "hmac, the method and a header", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "hmac", Signed: "{method}:{header:x-nonce}.{body}"},
		secret:       "s", body: `{"id":1}`, hex: true,
		header: map[string]string{"X-Webhook-Signature": "09e62796cffe977a0cc7543818d9876f4d88525b173c0b37ff98d084d0a5b0bc", "X-Nonce": "abc"},
	},
	{
		name: "hmac, the id", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "hmac", Encoding: "base64", Signed: "{id}.{time}.{body}", TimeHeader: "Webhook-Timestamp"},
		secret:       "s", body: `{"id":1}`, at: 1_700_000_000,
		header: map[string]string{"X-Webhook-Signature": "aVVfnbgxVIdA81Dn4/I/c8j0FC00+jvSbZF/mIeNwzk=", "Webhook-Timestamp": "1700000000", "Webhook-Id": "msg_1"},
	},
}

func init() { vectors = append(vectors, customVectors...) }

// TestListOfSignatures checks that one right signature among several in one header is enough, as
// while a secret changes.
func TestListOfSignatures(t *testing.T) {
	const right = "78d89b9e545ad70e654a9291eee7ce4a611059475944b402f295855baaa68843" // by OpenSSL, as above
	wrong := strings.Repeat("00", 32)
	ver := verifier(t, kapsel.Verification{Provider: "hmac", Format: "list", Prefix: "v1="}, "s")
	for value, ok := range map[string]bool{
		"v1=" + wrong + ",v1=" + right:  true,
		"v1=" + right + ", v1=" + wrong: true,
		"v1=" + wrong + " v1=" + right:  true,
		"v0=" + wrong + ",v1=" + right:  true,
		"v0=" + right:                   false,
		"v1=" + wrong + ",v1=" + wrong:  false,
		"":                              false,
		strings.Repeat("v1="+wrong+",", 10) + "v1=" + right: false,
	} {
		r := Request{Header: http.Header{"X-Webhook-Signature": {value}}, Body: []byte(`{"id":1}`)}
		if verdict, err := ver.Verify(r, time.Now()); verdict.Valid != ok {
			t.Errorf("%s: %+v, %v", value, verdict, err)
		}
	}
}

// TestDecompress checks that with decompress the signature is that of the decoded body, and that
// the decoded size is limited.
func TestDecompress(t *testing.T) {
	const signature = "78d89b9e545ad70e654a9291eee7ce4a611059475944b402f295855baaa68843" // by OpenSSL
	decode := func(text string) string {
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	gzipped := decode("H4sIAAAAAAACA6tWykxRsjKsBQDF+F1ECAAAAA==") // by gzip 1.13
	deflated := decode("eJyrVspMUbIyrAUAC00CdQ==")                // by zlib, in Python
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	z.Write(make([]byte, maxInflated+1))
	z.Close()
	bombSigned := hex.EncodeToString(sum("s", string(make([]byte, maxInflated+1))))
	ver := verifier(t, kapsel.Verification{Provider: "hmac", Decompress: true}, "s")
	asItCame := verifier(t, kapsel.Verification{Provider: "hmac"}, "s")
	for _, tt := range []struct {
		name, coding, body, signature string
		ok, asItCame                  bool
	}{
		{"gzip", "gzip", gzipped, signature, true, false},
		{"GZip", " GZip ", gzipped, signature, true, false},
		{"deflate", "deflate", deflated, signature, true, false},
		{"identity", "identity", `{"id":1}`, signature, true, true},
		{"none", "", `{"id":1}`, signature, true, true},
		{"another coding", "br", gzipped, signature, false, false},
		{"not gzip", "gzip", `{"id":1}`, signature, false, true},
		{"cut", "gzip", gzipped[:len(gzipped)-1], signature, false, false},
		{"changed", "gzip", gzipped[:20] + "x" + gzipped[21:], signature, false, false},
		{"signed as sent", "gzip", gzipped, hex.EncodeToString(sum("s", gzipped)), false, true},
		{"too much", "gzip", bomb.String(), bombSigned, false, false},
	} {
		r := Request{Header: http.Header{"X-Webhook-Signature": {tt.signature}}, Body: []byte(tt.body)}
		if tt.coding != "" {
			r.Header.Set("Content-Encoding", tt.coding)
		}
		if verdict, err := ver.Verify(r, time.Now()); verdict.Valid != tt.ok || (err == nil) != tt.ok {
			t.Errorf("%s: %+v, %v", tt.name, verdict, err)
		}
		if verdict, err := asItCame.Verify(r, time.Now()); verdict.Valid != tt.asItCame {
			t.Errorf("%s, without decompress: %+v, %v", tt.name, verdict, err)
		}
	}
}

func TestCheckHMACSettings(t *testing.T) {
	for _, tt := range []struct {
		v    kapsel.Verification
		want []string // fields below verification
	}{
		{kapsel.Verification{Signed: "{time}.{body}", TimeHeader: "X-Time", TimeUnit: "milliseconds", KeyEncoding: "hex", Format: "list"}, nil},
		{kapsel.Verification{Signed: "{time}.{body}", Format: "pairs", Prefix: "v1="}, nil},
		{kapsel.Verification{Signed: "v0:{header:X-A}:{method}{url}{id}{body}\n"}, nil},
		{kapsel.Verification{Signed: "{time}.{body}"}, []string{"signed"}},
		{kapsel.Verification{TimeHeader: "X-Time"}, []string{"time_header"}},
		{kapsel.Verification{Signed: "{time}{body}", TimeHeader: "X Time"}, []string{"time_header"}},
		{kapsel.Verification{Signed: "{url}"}, []string{"signed"}},
		{kapsel.Verification{Signed: "{body}{body}"}, []string{"signed"}},
		{kapsel.Verification{Signed: "{body}{query}"}, []string{"signed"}},
		{kapsel.Verification{Signed: "{body}{header:}"}, []string{"signed"}},
		{kapsel.Verification{Signed: "{body}{"}, []string{"signed"}},
		{kapsel.Verification{Signed: "}{body}"}, []string{"signed"}},
		{kapsel.Verification{Signed: "{body}" + strings.Repeat("x", 512)}, []string{"signed"}},
		{kapsel.Verification{Format: "csv", TimeUnit: "days", KeyEncoding: "base32"}, []string{"format", "time_unit", "key_encoding"}},
		{kapsel.Verification{Format: "plain pairs"}, []string{"format"}},
		{kapsel.Verification{Format: "pairs", Prefix: "v1"}, []string{"prefix"}},
		{kapsel.Verification{Format: "pairs", Prefix: "="}, []string{"prefix"}},
		{kapsel.Verification{In: "basic"}, []string{"in"}},
	} {
		tt.v.Provider, tt.v.Secrets = "hmac", []kapsel.Secret{{}}
		var got []string
		for _, f := range Check(tt.v) {
			got = append(got, strings.TrimPrefix(f.Field, "verification."))
		}
		slices.Sort(tt.want)
		slices.Sort(got)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", tt.v, diff)
		}
	}
	for in, ok := range map[string]bool{
		"header:X-Token": true, "basic": true, "query:token": true, "query:a.b": true,
		"": false, "header:": false, "header:a b": false, "query:": false, "query:a&b": false, "query:a=b": false, "query:é": false, "body": false, "Basic": false,
	} {
		if fields := Check(kapsel.Verification{Provider: "token", In: in, Secrets: []kapsel.Secret{{}}}); (fields == nil) != ok {
			t.Errorf("token in %q: %v", in, fields)
		}
	}
}

// TestToken checks that the secret itself is accepted wherever a sender puts it.
func TestToken(t *testing.T) {
	for _, tt := range []struct {
		in, secret, query string
		header            map[string]string
		ok                bool
	}{
		{"header:x-token", "s3cret", "", map[string]string{"X-Token": "s3cret"}, true},
		{"header:x-token", "s3cret", "", map[string]string{"X-Token": "s3creT"}, false},
		{"header:x-token", "s3cret", "", map[string]string{"X-Token": "Bearer s3cret"}, false},
		{"header:x-token", "s3cret", "", map[string]string{"X-Token": ""}, false},
		{"header:x-token", "s3cret", "", nil, false},
		{"header:Authorization", "s3cret", "", map[string]string{"Authorization": "s3cret"}, true},
		{"header:Authorization", "s3cret", "", map[string]string{"Authorization": "Bearer s3cret"}, true},
		{"header:Authorization", "Bearer s3cret", "", map[string]string{"Authorization": "Bearer s3cret"}, true},
		{"header:Authorization", "s3cret", "", map[string]string{"Authorization": "Basic s3cret"}, false},
		{"basic", "me:s3cret", "", map[string]string{"Authorization": "Basic bWU6czNjcmV0"}, true},
		{"basic", "me:s3cret", "", map[string]string{"Authorization": "basic  bWU6czNjcmV0"}, true},
		{"basic", "me:s3cret", "", map[string]string{"Authorization": "Basic bWU6czNjcmVU"}, false},
		{"basic", "me:s3cret", "", map[string]string{"Authorization": "Bearer bWU6czNjcmV0"}, false},
		{"basic", "me:s3cret", "", map[string]string{"Authorization": "me:s3cret"}, false},
		{"query:token", "s3cret", "a=b&token=s3cret", nil, true},
		{"query:token", "s 3", "token=s+3", nil, true},
		{"query:token", "s3cret", "token=s3cret&token=s3cret", nil, true},
		{"query:token", "s3cret", "token=s3cret&%74oken=other", nil, false},
		{"query:token", "s3cret", "token=other&token=s3cret", nil, false},
		{"query:token", "s3cret", "Token=s3cret", nil, false},
		{"query:token", "s3cret", "token=%zz", nil, false},
		{"query:token", "s3cret", "token", nil, false},
		{"query:token", "s3cret", "", nil, false},
	} {
		r := Request{Method: "POST", URL: "https://hooks.example.com/ingest/ep_1?" + tt.query, Header: http.Header{}, Body: []byte("{}")}
		for name, value := range tt.header {
			r.Header.Set(name, value)
		}
		ver := verifier(t, kapsel.Verification{Provider: "token", In: tt.in}, tt.secret)
		if verdict, err := ver.Verify(r, time.Now()); verdict.Valid != tt.ok || (err == nil) != tt.ok {
			t.Errorf("%s %q %v: %+v, %v", tt.in, tt.query, tt.header, verdict, err)
		}
	}
}

func TestCleanQuery(t *testing.T) {
	v := kapsel.Verification{Provider: "token", In: "query:token"}
	for query, want := range map[string]string{
		"":                                 "",
		"token=a":                          "",
		"a=1&token=a&b=%20+&token=b&c":     "a=1&b=%20+&c",
		"%74oken=a&a=token=x":              "a=token=x",
		"Token=a&tokens=b&=token&;token=c": "Token=a&tokens=b&=token&;token=c",
		"a=%zz&%zz=1&token=%zz&&":          "a=%zz&%zz=1&&",
		"token":                            "",
		"x=1&token[]=a":                    "x=1&token[]=a",
	} {
		if got := CleanQuery(v, query); got != want {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
		if got := CleanQuery(kapsel.Verification{Provider: "github"}, query); got != query {
			t.Errorf("github: %q became %q", query, got)
		}
	}
	if got := SharedSecretHeaders(v); got != nil {
		t.Errorf("headers of a secret in the query: %v", got)
	}
	for in, want := range map[string]string{"header:x-token": "X-Token", "basic": "Authorization"} {
		if got := SharedSecretHeaders(kapsel.Verification{Provider: "token", In: in}); !slices.Equal(got, []string{want}) {
			t.Errorf("headers of %s: %v", in, got)
		}
	}
}

// TestSpaceAroundSecrets checks that white space around a secret is refused with the reason, unless
// people choose the secret.
func TestSpaceAroundSecrets(t *testing.T) {
	secrets := map[string]string{"discord": strings.Repeat("00", 32), "adyen": "00ff", "sendgrid": ""}
	for _, v := range vectors {
		secrets[v.verification.Provider] = v.secret
	}
	for name, p := range presets {
		if p.key == nil {
			continue // it has none
		}
		secret := secrets[name]
		if secret == "" || name == "gitlab" {
			secret = "a secret"
		}
		for _, space := range []string{" " + secret, secret + "\n", secret + "\t", "\u00a0" + secret, "\ufeff" + secret, secret + "\u200b"} {
			err := CheckSecret(kapsel.Verification{Provider: name}, []byte(space))
			if (err == nil) != p.anySpace {
				t.Errorf("%s: %q: %v", name, space, err)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error shows the secret: %v", name, err)
			}
		}
	}
	stripe := kapsel.Verification{Provider: "stripe"}
	if err := CheckSecret(stripe, []byte("whsec_a ")); err == nil || !strings.Contains(err.Error(), "white space") {
		t.Errorf("stripe: %v", err)
	}
}
