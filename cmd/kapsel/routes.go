package main

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"path"
	"strings"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/ingest"
	"github.com/kapsel-hq/kapsel/internal/problem"
	"github.com/kapsel-hq/kapsel/internal/telemetry"
)

// router sends a request to the package that answers it. It is no ServeMux, which would
// redirect a POST with an unclean path instead of refusing it.
type router struct {
	ingest http.Handler
	api    http.Handler
	health *telemetry.Health
	inbox  http.Handler // nil without --dev
}

func (t *router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := r.URL.Path
	switch {
	case strings.HasPrefix(p, ingest.Path):
		t.ingest.ServeHTTP(w, r)
	case p == "/health/live":
		t.health.Live(w, r)
	case p == "/health/ready":
		t.health.Ready(w, r)
	case p == "/health/startup":
		t.health.Startup(w, r)
	case t.inbox != nil && p == inboxPath:
		t.inbox.ServeHTTP(w, r)
	case p == "/" && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		http.Redirect(w, r, "/docs", http.StatusFound)
	case path.Clean(p) == p && (strings.HasPrefix(p, "/v1/") || p == "/openapi.json" || p == "/docs"):
		t.api.ServeHTTP(w, r)
	default:
		r = r.WithContext(problem.WithRequestID(r.Context(), problem.NewRequestID()))
		problem.Write(w, r, kapsel.Errorf(kapsel.NotFound, "nothing is at this path; /docs lists what is"))
	}
}

// encodeKey is a key's text in its file and in the environment.
func encodeKey(key []byte) []byte {
	return append([]byte(base64.StdEncoding.EncodeToString(key)), '\n')
}

// newAdminKey makes an admin key of 256 random bits.
func newAdminKey() []byte {
	var b [32]byte
	rand.Read(b[:])
	return []byte("adm_" + base64.RawURLEncoding.EncodeToString(b[:]) + "\n")
}
