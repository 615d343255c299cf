package witness

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Handler returns the routes of the witness: add-checkpoint of C2SP tlog-witness, the newest head of a log
// with a signature of now, and whether there is an alarm.
func (w *Witness) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+addPath, w.serveAdd)
	mux.HandleFunc("GET /checkpoint/{origin...}", w.serveHead)
	mux.HandleFunc("GET /health/logs", w.serveAlarms)
	return mux
}

// serveAdd answers add-checkpoint.
func (w *Witness) serveAdd(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxText))
	var long *http.MaxBytesError
	var req Request
	switch {
	case errors.As(err, &long):
		err = w.refuse(http.StatusRequestEntityTooLarge, "the body has more than %d bytes", maxText)
	case err != nil:
		err = w.refuse(http.StatusBadRequest, "the body is cut off")
	default:
		if req, err = ParseRequest(string(body)); err != nil {
			err = w.refuse(http.StatusBadRequest, "%v", err)
		}
	}
	line := ""
	if err == nil {
		line, err = w.Add(req)
	}
	var a *Answered
	switch {
	case err == nil:
		plain(rw, http.StatusOK, line)
	case !errors.As(err, &a):
		w.cfg.Log.Error("a head could not be kept", "error", err)
		plain(rw, http.StatusServiceUnavailable, "the witness cannot keep what it signs at the moment; try again\n")
	case a.Status == http.StatusConflict:
		rw.Header().Set("Content-Type", sizeType)
		rw.WriteHeader(a.Status)
		fmt.Fprintf(rw, "%d\n", a.Size)
	default:
		plain(rw, a.Status, a.Text+"\n")
	}
}

// serveHead answers with the newest head of a log.
func (w *Witness) serveHead(rw http.ResponseWriter, r *http.Request) {
	head, ok, err := w.Head(r.PathValue("origin"))
	switch {
	case err != nil:
		w.cfg.Log.Error("a head could not be signed", "error", err)
		plain(rw, http.StatusInternalServerError, "the head could not be signed\n")
	case !ok:
		plain(rw, http.StatusNotFound, "this witness has cosigned no head of this log\n")
	default:
		plain(rw, http.StatusOK, head)
	}
}

// serveAlarms answers 503 while there is evidence against a log.
func (w *Witness) serveAlarms(rw http.ResponseWriter, _ *http.Request) {
	alarms := w.Alarms()
	if len(alarms) == 0 {
		plain(rw, http.StatusOK, "no log has forked or shrunk\n")
		return
	}
	var b strings.Builder
	for _, a := range alarms {
		b.WriteString(a.Text + "\n")
	}
	plain(rw, http.StatusServiceUnavailable, b.String())
}

func plain(rw http.ResponseWriter, status int, text string) {
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	rw.WriteHeader(status)
	io.WriteString(rw, text)
}
