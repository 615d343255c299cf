package dashboard

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
)

// proofs registers the download of the proof package of an attempt, as GET /v1/attempts/{id}/proof answers it.
func (d *Dashboard) proofs() {
	d.mux.HandleFunc("GET /attempts/{id}/proof", func(w http.ResponseWriter, r *http.Request) {
		p, err := d.open(w, r, access.Read)
		if errors.Is(err, access.ErrSignedOut) {
			toSignIn(w, r)
			return
		}
		var body []byte
		if err == nil {
			body, err = d.proof(p)
		}
		if err != nil {
			d.fail(w, r, p, err)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Disposition", `attachment; filename="`+r.PathValue("id")+`.proof.json"`)
		_, _ = w.Write(body) // who has gone away misses nothing
	})
}

func (d *Dashboard) proof(p *page) ([]byte, error) {
	id, err := kapsel.ParseAttemptID(p.params("id"))
	if err != nil {
		return nil, errNoPage
	}
	proven, err := d.Manage.Proof(p.ctx, p.caller, id)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(proven)
	return append(body, '\n'), err
}
