package problem

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kapsel-hq/kapsel"
)

func TestWrite(t *testing.T) {
	cause := errors.New("dial tcp 10.0.0.7:5432: SELECT secret")
	tests := map[string]struct {
		err        error
		want       string
		retryAfter string
	}{
		"signature": {
			err:  kapsel.Errorf(kapsel.InvalidSignature, "no signature"),
			want: `{"type":"urn:kapsel:error:E1001","title":"Invalid signature","status":401,"detail":"no signature","code":"E1001","request_id":"req_1"}`,
		},
		"wrapped": {
			err:  fmt.Errorf("accept: %w", kapsel.Errorf(kapsel.NotFound, "no such event")),
			want: `{"type":"urn:kapsel:error:E1009","title":"Not found","status":404,"detail":"no such event","code":"E1009","request_id":"req_1"}`,
		},
		"fields": {
			err: &kapsel.Error{
				Code: kapsel.InvalidRequest, Status: 422, Detail: "two fields are wrong",
				Fields: []kapsel.FieldError{{Field: "url", Detail: "not a URL"}, {Field: "retry.base", Detail: "at least 100ms"}},
			},
			want: `{"type":"urn:kapsel:error:E1006","title":"Invalid request","status":422,"detail":"two fields are wrong","code":"E1006","request_id":"req_1",` +
				`"errors":[{"field":"url","detail":"not a URL"},{"field":"retry.base","detail":"at least 100ms"}]}`,
		},
		"cause stays ours": {
			err:        &kapsel.Error{Code: kapsel.DatabaseUnavailable, Detail: "try again", RetryAfter: 1500 * time.Millisecond, Err: cause},
			want:       `{"type":"urn:kapsel:error:E3001","title":"Database unavailable","status":503,"detail":"try again","code":"E3001","request_id":"req_1"}`,
			retryAfter: "2",
		},
		"503 without a time": {
			err:        kapsel.Errorf(kapsel.QueueFull, "full"),
			want:       `{"type":"urn:kapsel:error:E3003","title":"Queue full","status":503,"detail":"full","code":"E3003","request_id":"req_1"}`,
			retryAfter: "1",
		},
		"429, less than a second": {
			err:        &kapsel.Error{Code: kapsel.RateLimited, Detail: "slow down", RetryAfter: time.Millisecond},
			want:       `{"type":"urn:kapsel:error:E1004","title":"Rate limited","status":429,"detail":"slow down","code":"E1004","request_id":"req_1"}`,
			retryAfter: "1",
		},
		"quota in the API": {
			err:  &kapsel.Error{Code: kapsel.QuotaExceeded, Status: 403, Detail: "10 endpoints"},
			want: `{"type":"urn:kapsel:error:E1011","title":"Quota exceeded","status":403,"detail":"10 endpoints","code":"E1011","request_id":"req_1"}`,
		},
		"bug": {
			err:  cause,
			want: `{"type":"about:blank","title":"Internal server error","status":500,"detail":"something went wrong on our side; the log has the request id","code":"","request_id":"req_1"}`,
		},
		"code of an attempt": {
			err:  kapsel.Errorf(kapsel.DNSError, "never an answer"),
			want: `{"type":"about:blank","title":"Internal server error","status":500,"detail":"something went wrong on our side; the log has the request id","code":"","request_id":"req_1"}`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			r := httptest.NewRequest("POST", "/", nil)
			Write(w, r.WithContext(WithRequestID(r.Context(), "req_1")), tt.err)
			res := w.Result()
			body, _ := io.ReadAll(res.Body)
			if diff := cmp.Diff(tt.want, string(body)); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			var d Document
			if err := json.Unmarshal(body, &d); err != nil || d.Status != res.StatusCode {
				t.Errorf("status %d, document %+v, %v", res.StatusCode, d, err)
			}
			wantHeader := http.Header{
				"Content-Type":           {"application/problem+json"},
				"Content-Length":         {fmt.Sprint(len(tt.want))},
				"X-Content-Type-Options": {"nosniff"},
				"Cache-Control":          {"no-store"},
			}
			if tt.retryAfter != "" {
				wantHeader.Set("Retry-After", tt.retryAfter)
			}
			if diff := cmp.Diff(wantHeader, res.Header); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRequestID(t *testing.T) {
	ctx := context.Background()
	if id := RequestID(ctx); id != "" {
		t.Errorf("RequestID of a bare context = %q", id)
	}
	id := NewRequestID()
	if got := RequestID(WithRequestID(ctx, id)); got != id {
		t.Errorf("RequestID = %q, want %q", got, id)
	}
	form := regexp.MustCompile(`^req_[0-9a-hjkmnp-tv-z]{26}$`)
	seen := map[string]bool{}
	for range 1000 {
		id := NewRequestID()
		if !form.MatchString(id) || seen[id] {
			t.Fatalf("NewRequestID = %q (seen %v)", id, seen[id])
		}
		seen[id] = true
	}
}

func BenchmarkWrite(b *testing.B) {
	r := httptest.NewRequest("POST", "/", nil)
	r = r.WithContext(WithRequestID(r.Context(), NewRequestID()))
	err := kapsel.Errorf(kapsel.QueueFull, "full")
	b.ReportAllocs()
	for b.Loop() {
		Write(discard{http.Header{}}, r, err)
	}
}

type discard struct{ h http.Header }

func (d discard) Header() http.Header       { return d.h }
func (discard) WriteHeader(int)             {}
func (discard) Write(b []byte) (int, error) { return len(b), nil }
