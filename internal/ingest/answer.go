package ingest

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/problem"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// reply writes the answer that a provider demands. If err is not nil, reply writes nothing and
// returns err.
func reply(w http.ResponseWriter, a *signature.Answer, err error) error {
	if err != nil {
		return err
	}
	header := w.Header()
	header["Content-Type"] = nil // no content type, rather than one that net/http guesses
	if a.ContentType != "" {
		header["Content-Type"] = []string{a.ContentType}
	}
	for name, value := range a.Header {
		header[name] = []string{value}
	}
	if a.Status != http.StatusNoContent {
		header["Content-Length"] = []string{strconv.Itoa(len(a.Body))}
	}
	w.WriteHeader(a.Status)
	w.Write(a.Body) // an error means that the client hung up
	return nil
}

// ownAnswer returns the answer to an accepted webhook that the endpoint or source sets or, if it
// sets none, the one that its provider demands. It returns nil for the usual answer.
func ownAnswer(in *kapsel.Intake) *signature.Answer {
	r := in.Response
	if r == nil {
		return signature.Accepted(in.Verification.Provider)
	}
	a := &signature.Answer{Status: r.Status, Body: []byte(r.Body)}
	if r.ContentType != kapsel.NoContentType {
		a.ContentType = r.ContentType
	}
	return a
}

// answer writes that the event is stored. Without Wait, the usual body is constant but for the ID.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, in *kapsel.Intake, a store.Accepted) {
	id := a.EventID.String()
	header := w.Header()
	header["Content-Type"] = []string{"application/json"}
	header["X-Kapsel-Event-Id"] = []string{id}
	if a.Duplicate {
		header["Idempotent-Replayed"] = []string{"true"}
	}
	if own := ownAnswer(in); own != nil {
		reply(w, own, nil)
		return
	}
	status := "received"
	if h.Wait != nil && strings.Contains(r.URL.RawQuery, "wait=") {
		if d, err := time.ParseDuration(r.URL.Query().Get("wait")); err == nil && d > 0 {
			ctx, cancel := context.WithTimeout(r.Context(), min(d, time.Minute))
			defer cancel()
			status = h.Wait(ctx, a.EventID)
		}
	}
	body := make([]byte, 0, 96)
	body = append(body, `{"event_id":"`...)
	body = append(body, id...)
	body = append(body, `","status":"`...)
	body = append(body, status...)
	body = append(body, "\"}"...)
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.Write(body) // an error means that the client hung up; its event is stored all the same
}

// RefusedMessage is the log message for a refused webhook.
const RefusedMessage = "webhook refused"

// refuse answers a request with an error, and logs the error with the request's path and client.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	id := problem.NewRequestID()
	r = r.WithContext(problem.WithRequestID(r.Context(), id))
	level := slog.LevelDebug
	switch code := kapsel.CodeOf(err); {
	case code == "":
		level = slog.LevelError // a bug
	case code == kapsel.DatabaseUnavailable || code == kapsel.InvalidSignature:
		level = slog.LevelInfo
	}
	h.Log.Log(r.Context(), level, RefusedMessage, "request_id", id, "error", err, "path", r.URL.Path, "client", access.ClientOf(r, h.Proxies))
	problem.Write(w, r, err)
}
