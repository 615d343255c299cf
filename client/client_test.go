package client

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const testKey = "kap_secretsecretsecret"

func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := New(s.URL+"/", testKey)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestListReadsAllPages(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer "+testKey {
			t.Errorf("Authorization is %q", got)
		}
		if got := r.URL.Query().Get("status"); got != "failed" {
			t.Errorf("status is %q", got)
		}
		switch r.URL.Query().Get("cursor") {
		case "":
			io.WriteString(w, `{"data":[{"id":"evt_3"},{"id":"evt_2"}],"next_cursor":"c1"}`)
		case "c1":
			io.WriteString(w, `{"data":[{"id":"evt_1"}],"next_cursor":null}`)
		default:
			t.Errorf("asked for %s", r.URL)
		}
	})
	list := c.ListEvents(t.Context(), ListEventsFilter{Status: "failed"})
	for range 2 { // an iterator may be ranged over again
		var ids []string
		for e, err := range list {
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, e.ID)
		}
		if diff := cmp.Diff([]string{"evt_3", "evt_2", "evt_1"}, ids); diff != "" {
			t.Error(diff)
		}
	}
}

func TestListEndsAfterAnError(t *testing.T) {
	asked := 0
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked > 1 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		io.WriteString(w, `{"data":[{"id":"ten_1"}],"next_cursor":"c"}`)
	})
	var ids, failures int
	for _, err := range c.ListTenants(t.Context()) {
		if err != nil {
			failures++
			continue
		}
		ids++
	}
	if ids != 1 || failures != 1 || asked != 2 {
		t.Errorf("%d objects, %d errors, %d requests", ids, failures, asked)
	}
}

func TestErrorIsTyped(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusUnprocessableEntity)
		io.WriteString(w, `{"title":"Invalid request","status":422,"detail":"several fields are wrong; errors lists them","code":"E1006","request_id":"r1",
			"errors":[{"field":"name","detail":"is needed"},{"field":"url","detail":"is needed"}]}`)
	})
	_, err := c.GetEvent(t.Context(), "evt_1")
	var got *Error
	if !errors.As(err, &got) {
		t.Fatalf("the error is %v", err)
	}
	want := &Error{
		Status: 422, Code: "E1006", Title: "Invalid request", Detail: "several fields are wrong; errors lists them", RequestID: "r1",
		Fields: []FieldError{{"name", "is needed"}, {"url", "is needed"}}, RetryAfter: 7 * time.Second,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if want := "several fields are wrong; errors lists them; name is needed; url is needed (E1006, request r1)"; err.Error() != want {
		t.Errorf("the text is %q", err)
	}
}

func TestRedirectsAreErrors(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			t.Error("followed")
		}
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	})
	var got *Error
	if _, err := c.GetTenant(t.Context(), "ten_1"); !errors.As(err, &got) || got.Status != http.StatusFound {
		t.Errorf("the error is %v", err)
	}
}

func TestRequests(t *testing.T) {
	var got string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = strings.Join([]string{r.Method, r.RequestURI, r.Header.Get("Content-Type"), r.Header.Get("Idempotency-Key"), string(body)}, " | ")
		io.WriteString(w, `{}`)
	})
	ctx := WithIdempotencyKey(t.Context(), "k1")
	if _, err := c.CreateEndpoint(ctx, "ten_1", EndpointInput{Name: "a", URL: "http://b", Signing: &SigningInput{Enabled: new(false)}}); err != nil {
		t.Fatal(err)
	}
	if want := `POST | /v1/endpoints?tenant_id=ten_1 | application/json | k1 | {"name":"a","url":"http://b","signing":{"enabled":false}}`; got != want {
		t.Errorf("sent %s", got)
	}
	if _, err := c.UpdateEndpoint(ctx, "ep/1", EndpointPatch{Timeout: Null[Duration](), RetryOn: Some([]int64{})}); err != nil {
		t.Fatal(err)
	}
	if want := `PATCH | /v1/endpoints/ep%2F1 | application/merge-patch+json |  | {"retry_on":[],"timeout":null}`; got != want {
		t.Errorf("sent %s", got)
	}
	if _, err := c.PauseEndpoint(t.Context(), "ep_1"); err != nil {
		t.Fatal(err)
	}
	if want := `POST | /v1/endpoints/ep_1/pause |  |  | `; got != want {
		t.Errorf("sent %s", got)
	}
}

func TestOptionalKeepsNullAndAbsent(t *testing.T) {
	const text = `{"limits":{"endpoints":null,"ingest_burst":5,"retention":"1h"}}`
	var in TenantPatch
	if err := json.Unmarshal([]byte(text), &in); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if string(out) != text {
		t.Errorf("wrote %s", out)
	}
}

func TestSecretsAreInNoError(t *testing.T) {
	for _, base := range []string{"", "ftp://h", "http://", "http://user:" + testKey + "@h", "http://h?k=" + testKey, "http://" + testKey + "\x7f"} {
		if _, err := New(base, testKey); err == nil || strings.Contains(err.Error(), testKey) {
			t.Errorf("New(%q) says %v", base, err)
		}
	}
	if _, err := New("http://h", testKey+"\n"); err == nil || strings.Contains(err.Error(), testKey) {
		t.Errorf("New says %v", err)
	}
	c, err := New("http://127.0.0.1:1", testKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.GetTenant(t.Context(), "ten_1"); err == nil || strings.Contains(err.Error(), testKey) {
		t.Errorf("the error is %v", err)
	}
}

type roundTrips func(*http.Request) (*http.Response, error)

func (f roundTrips) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestWithHTTPClient: the caller's transport and time-out are used, and neither its redirects
// nor later changes.
func TestWithHTTPClient(t *testing.T) {
	asked := 0
	own := &http.Client{
		Timeout: time.Hour,
		Transport: roundTrips(func(r *http.Request) (*http.Response, error) {
			asked++
			if _, limited := r.Context().Deadline(); limited != !strings.HasSuffix(r.URL.Path, "/stream") {
				t.Errorf("%s: it has a deadline: %t", r.URL, limited)
			}
			return &http.Response{StatusCode: http.StatusFound, Header: http.Header{"Location": {"http://other.example/"}}, Body: http.NoBody, Request: r}, nil
		}),
		CheckRedirect: func(*http.Request, []*http.Request) error { return nil },
	}
	c, err := New("http://kapsel.example", testKey, WithHTTPClient(own))
	if err != nil {
		t.Fatal(err)
	}
	kept := own.Transport
	own.Transport = nil
	_, err = c.GetTenant(t.Context(), "ten_1")
	var refused *Error
	if !errors.As(err, &refused) || refused.Status != http.StatusFound || asked != 1 {
		t.Errorf("%d requests, %v", asked, err)
	}
	for _, err := range c.StreamEvents(t.Context(), StreamOptions{}) {
		if !errors.As(err, &refused) {
			t.Errorf("the stream: %v", err)
		}
	}
	if asked != 2 || kept == nil || own.Timeout != time.Hour {
		t.Errorf("%d requests, time-out %v", asked, own.Timeout)
	}
}

// TestWithRawAnswers: what the server wrote is given out byte for byte, spaces and unknown
// fields included.
func TestWithRawAnswers(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/tenants":
			io.WriteString(w, `{"data": [ {"id":"ten_2", "new":1.0}, {"id" : "ten_1"}],"next_cursor":null}`)
		case "/v1/tenants/ten_1":
			io.WriteString(w, "{\"id\":\"ten_1\",\t\"name\":\"<\\u00fc>\"}\n")
		case "/v1/events/stream":
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "id: evt_1\ndata: {\"id\":\"evt_1\", \"later\":[]}\n\n")
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	var raw []string
	ctx := WithRawAnswers(t.Context(), func(answer []byte) { raw = append(raw, string(answer)) })
	for tenant, err := range c.ListTenants(ctx) {
		if err != nil || len(raw) == 0 || !strings.Contains(raw[len(raw)-1], tenant.ID) {
			t.Errorf("%s is yielded before its text: %q, %v", tenant.ID, raw, err)
		}
	}
	if _, err := c.GetTenant(ctx, "ten_1"); err != nil {
		t.Error(err)
	}
	if _, err := c.GetTenant(ctx, "ten_9"); err == nil {
		t.Error("an error is answered")
	}
	for range c.StreamEvents(ctx, StreamOptions{}) {
		break
	}
	want := []string{`{"id":"ten_2", "new":1.0}`, `{"id" : "ten_1"}`, "{\"id\":\"ten_1\",\t\"name\":\"<\\u00fc>\"}\n", `{"id":"evt_1", "later":[]}`}
	if diff := cmp.Diff(want, raw); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
