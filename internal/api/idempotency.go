package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

const (
	keyWindow = 24 * time.Hour // how long a key is remembered
	// stillRunning is longer than any request of this API takes. An older reservation without an answer
	// belongs to a process that died.
	stillRunning = 2 * time.Minute
)

// once runs a POST with an Idempotency-Key once, and repeats the answer when the request comes again.
//
// The object that the request makes gets its ID from the reservation. So a request that runs again after a
// crash makes nothing twice: the store refuses the ID, and the answer names the object that exists.
func (a *api) once(ctx huma.Context, c *call, next func(huma.Context)) error {
	values := c.r.Header["Idempotency-Key"]
	if a.Answers == nil || c.r.Method != http.MethodPost || len(values) == 0 || ownKeys(ctx.Operation()) {
		next(huma.WithValue(ctx, callKey{}, c))
		return nil
	}
	if len(values) > 1 || !kapsel.ValidHeaderKey(values[0]) {
		return unreadable(field("Idempotency-Key", "must be there once, with 1 to 255 printable ASCII characters"))
	}
	body, err := io.ReadAll(io.LimitReader(c.r.Body, maxBody+1))
	if err != nil {
		return &kapsel.Error{Code: kapsel.InvalidRequest, Detail: "the body broke off", Err: err}
	}
	c.r.Body = io.NopCloser(bytes.NewReader(body))

	now := a.Clock()
	mine := store.Reservation{
		Owner: c.caller.Tenant, Key: values[0], Request: fingerprint(c.r, body), Seed: kapsel.NewSecretID(now), CreatedAt: now, ExpiresAt: now.Add(keyWindow),
	}
	r, err := a.Answers.Reserve(ctx.Context(), mine, now)
	switch {
	case err != nil:
		return err
	case r.Request != mine.Request:
		return kapsel.Errorf(kapsel.DuplicateEvent, "the Idempotency-Key was used for another request; use a new one")
	case r.Seed == mine.Seed:
	case r.Status == 0 && now.Sub(r.CreatedAt) < stillRunning:
		return errRunning
	case r.Status != 0 && r.Status < 500:
		if showsNow(ctx.Operation()) {
			c.repeated = true
			c.w.Header().Set("Idempotent-Replayed", "true")
			next(huma.WithValue(ctx, callKey{}, c))
			return nil
		}
		return a.repeat(ctx.Context(), c.w, r, now)
	default: // the process that ran it died, or answered that it does not know
		switch resumed, err := a.Answers.Resume(ctx.Context(), r, now); {
		case err != nil:
			return err
		case !resumed: // another request was first
			return errRunning
		}
		r.Status, r.CreatedAt = 0, now
	}
	c.seed = r.Seed
	rec := &recorder{header: c.w.Header()}
	again := *c
	again.w = rec
	request := c.r.WithContext(context.WithValue(c.r.Context(), callKey{}, &again))
	again.r = request
	next(humago.NewContext(ctx.Operation(), request, rec))

	if rec.status == http.StatusConflict && r.Seed != mine.Seed && again.made != "" {
		rec.status = http.StatusInternalServerError // what it was answered is not known, and never will be
		a.settle(ctx.Context(), ctx.Operation(), r, rec, again.made, now)
		return kapsel.Errorf(kapsel.Conflict, "the first request with this Idempotency-Key made %s, and its answer is lost; see what it made, or remove it and use a new key", again.made)
	}
	a.settle(ctx.Context(), ctx.Operation(), r, rec, again.made, now)
	c.w.WriteHeader(rec.status)
	c.w.Write(rec.body.Bytes())
	return nil
}

var errRunning = &kapsel.Error{Code: kapsel.Conflict, Detail: "the first request with this Idempotency-Key is still running; try again", RetryAfter: time.Second}

// ownKeys reports whether an operation handles the Idempotency-Key itself.
func ownKeys(op *huma.Operation) bool { return op.Metadata["keyed"] != nil }

// showsNow reports whether the answer to a repeated request shows the object as it is now (see
// call.repeated), because the first answer has contents that may have been erased, and is not kept.
func showsNow(op *huma.Operation) bool { return op.Metadata["shows now"] != nil }

// hasSecret reports whether all answers of an operation have a secret.
func hasSecret(op *huma.Operation) bool { return op.Metadata["secret"] != nil }

// settle stores an answer, so that it can be repeated. If that fails the caller still gets the answer, and
// a repeated request finds the object that this one made.
func (a *api) settle(ctx context.Context, op *huma.Operation, r store.Reservation, rec *recorder, made string, now time.Time) {
	ctx = context.WithoutCancel(ctx)
	err := error(nil)
	switch {
	case rec.status >= 500:
		r.Status = rec.status
		err = a.Answers.Settle(ctx, r)
	case rec.status >= 400:
		err = a.Answers.Forget(ctx, r) // nothing was done; the request may be corrected
	default:
		r.Status, r.Made, r.Body = rec.status, made, rec.body.Bytes()
		if showsNow(op) {
			r.Body = nil
		}
		if err = a.sealAnswer(ctx, op, &r, now); err == nil {
			err = a.Answers.Settle(ctx, r)
		}
	}
	if err != nil {
		a.Log.ErrorContext(ctx, "api: keep the answer of an Idempotency-Key", "error", err)
	}
}

// sealAnswer seals the body of an answer that shows a new secret.
func (a *api) sealAnswer(ctx context.Context, op *huma.Operation, r *store.Reservation, now time.Time) error {
	var shown struct {
		ID            string
		TenantID      kapsel.TenantID `json:"tenant_id"`
		Secret        string
		SigningSecret string `json:"signing_secret"`
	}
	if json.Unmarshal(r.Body, &shown) != nil || shown.Secret == "" && shown.SigningSecret == "" && !hasSecret(op) {
		return nil
	}
	if shown.TenantID.IsZero() { // a key of the instance: there is nothing to seal it with, so it is not kept
		r.Made, r.Sealed, r.Body = shown.ID, true, nil
		return nil
	}
	t, err := a.Tenants.Tenant(ctx, shown.TenantID)
	if err != nil {
		return err
	}
	s, err := a.Vault.Seal(&t, answerObject(r), r.Body, now)
	if err != nil {
		return err
	}
	r.Made, r.Sealed = shown.ID, true
	r.Body, err = json.Marshal(sealedAnswer{t.ID, s})
	return err
}

// sealedAnswer is the body of an answer that is sealed for a tenant.
type sealedAnswer struct {
	Tenant kapsel.TenantID `json:"tenant"`
	Secret kapsel.Secret   `json:"secret"`
}

// answerObject binds a sealed answer to its reservation.
func answerObject(r *store.Reservation) string { return "answer " + r.Key }

// repeat writes the stored answer to the first request.
func (a *api) repeat(ctx context.Context, w http.ResponseWriter, r store.Reservation, now time.Time) error {
	body := r.Body
	if r.Sealed {
		if now.Sub(r.CreatedAt) >= store.SecretKept || len(r.Body) == 0 {
			return kapsel.Errorf(kapsel.Conflict, "the first request with this Idempotency-Key made a secret of %s, which is not kept any longer; revoke or rotate it, and use a new key", r.Made)
		}
		var sealed sealedAnswer
		if err := json.Unmarshal(r.Body, &sealed); err != nil {
			return err
		}
		t, err := a.Tenants.Tenant(ctx, sealed.Tenant)
		if err != nil {
			return err
		}
		if body, err = a.Vault.Open(&t, answerObject(&r), sealed.Secret); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Idempotent-Replayed", "true")
	w.WriteHeader(r.Status)
	w.Write(body)
	return nil
}

// fingerprint returns a hash of a request's path, query and body.
func fingerprint(r *http.Request, body []byte) (sum [32]byte) {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(r.URL.Path), []byte(r.URL.RawQuery), body} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	h.Sum(sum[:0])
	return sum
}

// reserved returns the ID that the request's Idempotency-Key reserved for what the request makes; zero
// without one.
func reserved[ID interface {
	~[16]byte
	String() string
}](ctx context.Context) ID {
	c := callOf(ctx)
	id := ID(c.seed)
	if c.seed != ([16]byte{}) {
		c.made = id.String()
	}
	return id
}

// recorder holds back the status and body of an answer until it is settled. Headers are not held back.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
