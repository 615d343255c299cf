package main

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/api"
	"github.com/kapsel-hq/kapsel/internal/dashboard"
	"github.com/kapsel-hq/kapsel/internal/problem"
	"github.com/kapsel-hq/kapsel/internal/telemetry"
)

// router passes a request to the package that answers it. Until the process has started, it answers only the
// requests for its health. It does not use http.ServeMux, which redirects a POST with an unclean path
// instead of refusing it.
type router struct {
	health *telemetry.Health
	rest   atomic.Pointer[services] // nil: the process is starting
}

// services holds the handlers of requests once the process has started.
type services struct {
	ingest    http.Handler
	api       http.Handler
	dashboard http.Handler
	inbox     http.Handler // nil without --dev
}

func (t *router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p, rest := r.URL.Path, t.rest.Load()
	switch {
	case p == "/health/live":
		t.health.Live(w, r)
	case p == "/health/ready":
		t.health.Ready(w, r)
	case p == "/health/startup":
		t.health.Startup(w, r)
	case rest == nil:
		refuse(w, r, &kapsel.Error{Code: kapsel.DatabaseUnavailable, Detail: "the service is starting; try again", RetryAfter: time.Second})
	case strings.HasPrefix(p, kapsel.IngestPath):
		rest.ingest.ServeHTTP(w, r)
	case rest.inbox != nil && p == inboxPath:
		rest.inbox.ServeHTTP(w, r)
	case path.Clean(p) == p && (strings.HasPrefix(p, "/v1/") || strings.HasPrefix(p, api.AttestationPath) || p == "/openapi.json" || p == "/docs"):
		rest.api.ServeHTTP(w, r)
	case dashboard.Serves(r.Method, p):
		rest.dashboard.ServeHTTP(w, r)
	default:
		refuse(w, r, kapsel.Errorf(kapsel.NotFound, "nothing is at this path; /docs lists what is"))
	}
}

// refuse answers a request that goes to no package with err.
func refuse(w http.ResponseWriter, r *http.Request, err error) {
	problem.Write(w, r.WithContext(problem.WithRequestID(r.Context(), problem.NewRequestID())), err)
}

// encodeKey returns a key in the form in which its file and the environment hold it.
func encodeKey(key []byte) []byte {
	return append([]byte(base64.StdEncoding.EncodeToString(key)), '\n')
}

// newAdminKey returns a new admin key of 256 random bits.
func newAdminKey() []byte {
	var b [32]byte
	rand.Read(b[:])
	return []byte("adm_" + base64.RawURLEncoding.EncodeToString(b[:]) + "\n")
}
