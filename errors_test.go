package kapsel

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// The table of codes that users rely on: name, HTTP status (0: never an answer of ours) and
// whether the same request may succeed later. It never changes; a new code adds a row.
func TestCodes(t *testing.T) {
	table := []struct {
		code, name string
		status     int
		retryable  bool
	}{
		{"E1001", "INVALID_SIGNATURE", 401, false},
		{"E1002", "PAYLOAD_TOO_LARGE", 413, false},
		{"E1003", "INVALID_ENDPOINT", 404, false},
		{"E1004", "RATE_LIMITED", 429, true},
		{"E1005", "DUPLICATE_EVENT", 409, false},
		{"E1006", "INVALID_REQUEST", 400, false},
		{"E1007", "UNAUTHORIZED", 401, false},
		{"E1008", "FORBIDDEN", 403, false},
		{"E1009", "NOT_FOUND", 404, false},
		{"E1010", "CONFLICT", 409, false},
		{"E1011", "QUOTA_EXCEEDED", 429, true},
		{"E1012", "DESTINATION_BLOCKED", 422, false},
		{"E1013", "UNKNOWN_EVENT_TYPE", 422, false},
		{"E1014", "SCHEMA_MISMATCH", 422, false},
		{"E2001", "CONNECTION_REFUSED", 0, true},
		{"E2002", "CONNECTION_TIMEOUT", 0, true},
		{"E2003", "HTTP_CLIENT_ERROR", 0, false},
		{"E2004", "HTTP_SERVER_ERROR", 0, true},
		{"E2005", "CIRCUIT_OPEN", 0, true},
		{"E2006", "TLS_ERROR", 0, true},
		{"E2007", "DNS_ERROR", 0, true},
		{"E2008", "BAD_RESPONSE", 0, true},
		{"E2009", "DESTINATION_BLOCKED", 0, false},
		{"E2010", "OUTCOME_UNKNOWN", 0, true},
		{"E3001", "DATABASE_UNAVAILABLE", 503, true},
		{"E3002", "TIGERBEETLE_UNAVAILABLE", 503, true},
		{"E3003", "QUEUE_FULL", 503, true},
		{"E3004", "WORKER_POOL_EXHAUSTED", 0, true},
		{"E3005", "SHUTTING_DOWN", 503, true},
	}
	for _, row := range table {
		c := Code(row.code)
		if c.Name() != row.name || c.Status() != row.status || c.Retryable() != row.retryable {
			t.Errorf("%s is %s, %d, %v; want %s, %d, %v", c, c.Name(), c.Status(), c.Retryable(), row.name, row.status, row.retryable)
		}
	}
	if len(codes) != len(table) {
		t.Errorf("%d codes, %d rows", len(codes), len(table))
	}
	for c, name := range map[Code]string{
		InvalidSignature: "E1001", PayloadTooLarge: "E1002", InvalidEndpoint: "E1003", RateLimited: "E1004", DuplicateEvent: "E1005",
		InvalidRequest: "E1006", Unauthorized: "E1007", Forbidden: "E1008", NotFound: "E1009", Conflict: "E1010", QuotaExceeded: "E1011",
		DestinationBlocked: "E1012", UnknownEventType: "E1013", SchemaMismatch: "E1014", ConnectionRefused: "E2001", ConnectionTimeout: "E2002", HTTPClientError: "E2003", HTTPServerError: "E2004",
		CircuitOpen: "E2005", TLSError: "E2006", DNSError: "E2007", BadResponse: "E2008", DialBlocked: "E2009", OutcomeUnknown: "E2010",
		DatabaseUnavailable: "E3001", LedgerUnavailable: "E3002", QueueFull: "E3003", WorkersExhausted: "E3004", ShuttingDown: "E3005",
	} {
		if string(c) != name {
			t.Errorf("%s is written %s", name, c)
		}
	}
}

func TestErrors(t *testing.T) {
	cause := io.ErrUnexpectedEOF
	shown := Errorf(Conflict, "the delivery is %s", Delivered)
	wrapped := Errorf(InvalidRequest, "body: %w", cause)
	hidden := &Error{Code: DatabaseUnavailable, Detail: "try again", Err: cause}
	for _, tt := range []struct {
		name   string
		err    error
		code   Code
		detail string
		text   string
		cause  error // in its chain
	}{
		{"plain", shown, Conflict, "the delivery is delivered", "E1010 CONFLICT: the delivery is delivered", nil},
		{"wrapping", wrapped, InvalidRequest, "body: unexpected EOF", "E1006 INVALID_REQUEST: body: unexpected EOF", cause},
		{"hiding its cause", hidden, DatabaseUnavailable, "try again", "E3001 DATABASE_UNAVAILABLE: try again: unexpected EOF", cause},
		{"wrapped", fmt.Errorf("read endpoint: %w", hidden), DatabaseUnavailable, "try again", "read endpoint: E3001 DATABASE_UNAVAILABLE: try again: unexpected EOF", cause},
		{"joined", errors.Join(io.EOF, shown), Conflict, "the delivery is delivered", "EOF\nE1010 CONFLICT: the delivery is delivered", io.EOF},
		{"around another", Errorf(QueueFull, "full: %w", hidden), QueueFull, "full: " + hidden.Error(), "E3003 QUEUE_FULL: full: " + hidden.Error(), cause},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := CodeOf(tt.err); got != tt.code {
				t.Errorf("code is %q, want %q", got, tt.code)
			}
			var e *Error
			if !errors.As(tt.err, &e) || e.Detail != tt.detail {
				t.Errorf("detail is %q, want %q", e.Detail, tt.detail)
			}
			if got := tt.err.Error(); got != tt.text {
				t.Errorf("text is %q, want %q", got, tt.text)
			}
			if tt.cause != nil && !errors.Is(tt.err, tt.cause) {
				t.Errorf("%v is not in its chain", tt.cause)
			}
			if !errors.Is(tt.err, &Error{Code: tt.code}) || errors.Is(tt.err, &Error{Code: NotFound}) {
				t.Error("errors.Is does not ask for the code")
			}
		})
	}
	for _, err := range []error{nil, io.EOF} {
		if got := CodeOf(err); got != "" {
			t.Errorf("code of %v is %q", err, got)
		}
	}
	if strings.Contains(hidden.Detail, cause.Error()) {
		t.Error("a hidden cause is in the detail")
	}
}
