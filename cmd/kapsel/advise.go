package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/kapsel-hq/kapsel/client"
)

// sentBy holds the flag that each field of a request came from, by the field's path. Flags that many
// commands have in common are in flagOf instead.
type sentBy map[string]string

// flagOf holds the flags of the fields and query parameters that many commands send.
var flagOf = map[string]string{
	"tenant_id": "--tenant", "endpoint_id": "--endpoint", "app_id": "--app", "since": "--since", "until": "--until", "status": "--status", "statuses": "--status",
	"state": "--state", "replayed": "--replayed", "idempotency_key": "--idempotency-key", "after": "--after", "interval": "--interval",
	"name": "--name", "url": "--url", "plan": "--plan", "scope": "--scope", "expires_at": "--expires-in", "overlap": "--overlap", "rate": "--rate",
	"limits.ingest_per_second": "--ingest-per-second", "limits.ingest_burst": "--ingest-burst", "limits.endpoints": "--endpoints",
	"limits.events_per_month": "--events-per-month", "limits.retention": "--retention", "limits.closed_catalogue": "--closed-catalogue",
	"source_id": "--source", "missing": "--missing", "keep_ingest": "--keep-ingest", "type": "--type",
	"expires_in": "--expires-in", "mode": "--mode", "sites": "--site", "kind": "--kind", "verb": "--verb", "object_id": "--object", "key_id": "--key",
}

// flag returns the words for a field on the command line: the flag that the field came from, or --file
// and the field.
func (n sentBy) flag(field string) string {
	for at := field; at != ""; {
		if flag := n[at]; flag != "" {
			return flag
		}
		at = at[:max(strings.LastIndexAny(at, ".["), 0)] // verification.secrets[1] is of verification.secrets
	}
	if object, name, _ := strings.Cut(field, "."); n["(file)"] == "" && slices.Contains(intakeFields, object) {
		return strings.TrimSpace("--" + object + " " + name)
	}
	if n["(file)"] != "" {
		return n["(file)"] + ": " + field
	}
	if flag := flagOf[field]; flag != "" {
		return flag
	}
	return field
}

// otherTime matches the name of a time's field in the text of an error about since or until.
var otherTime = regexp.MustCompile(`\b(since|until)\b`)

// inFlags returns the text of an error about fields, with flags in place of the fields.
func (n sentBy) inFlags(e *client.Error) string {
	var all []string
	for _, f := range e.Fields {
		if f.Field == "since" || f.Field == "until" {
			f.Detail = otherTime.ReplaceAllString(f.Detail, "--$1")
		}
		all = append(all, n.flag(f.Field)+" "+f.Detail)
	}
	text := e.Code
	if e.RequestID != "" {
		text += ", request " + e.RequestID
	}
	return strings.Join(all, "; ") + " (" + text + ")"
}

// inFlags is an error of the server whose text names flags instead of fields.
type inFlags struct {
	text string
	err  error
}

func (e inFlags) Error() string { return e.text }
func (e inFlags) Unwrap() error { return e.err }

// advise returns an error that names flags instead of fields and says what the user can do about it.
func (s *session) advise(err error) error {
	var refused *client.Error
	var unreached *url.Error
	var network net.Error
	switch {
	case errors.As(err, &refused) && refused.Status == http.StatusUnauthorized:
		return fmt.Errorf("%s refused the key of %s; is it a key of that server, and neither revoked nor expired? %w", s.Server, s.keyFrom, err)
	case errors.As(err, &refused) && len(refused.Fields) > 0:
		text := strings.Replace(err.Error(), refused.Error(), s.named.inFlags(refused), 1)
		return inFlags{text, err}
	case errors.As(err, &unreached) && errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.As(err, &unreached) && errors.As(err, &network):
		return fmt.Errorf("no answer from %s; is Kapsel running there? KAPSEL_URL (--kapsel-url) says where it is: %w", s.Server, unreached.Err)
	}
	return err
}
