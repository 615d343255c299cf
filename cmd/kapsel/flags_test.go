package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDurationsTakeDays(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"30d": 720 * time.Hour, "1d12h": 36 * time.Hour, "1d0.5h1m": 24*time.Hour + 31*time.Minute, "0.5d": 12 * time.Hour, "0d": 0, "-1d": -24 * time.Hour, "-1d1h": -25 * time.Hour,
		"90s": 90 * time.Second, "1h30m": 90 * time.Minute, "100ms": 100 * time.Millisecond, "0": 0,
	} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "30", "1d-1h", "1d+1h", "1d 1h", "1h1d", "1dd", "1D", "1d1", "99999999999d", "1e3d", "30 d", "one day"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestMoments(t *testing.T) {
	zone := time.Local
	defer func() { time.Local = zone }()
	time.Local = time.FixedZone("", 2*3600)
	for text, want := range map[string]string{
		"2026-01-31":                  "2026-01-30T22:00:00Z",
		"2026-01-31 12:30":            "2026-01-31T10:30:00Z",
		"2026-01-31T12:30:15":         "2026-01-31T10:30:15Z",
		"2026-01-31T12:00:00Z":        "2026-01-31T12:00:00Z",
		"2026-01-31T12:00:00.5+01:00": "2026-01-31T11:00:00.5Z",
	} {
		var m moment
		if err := m.UnmarshalText([]byte(text)); err != nil || m.UTC().Format(time.RFC3339Nano) != want {
			t.Errorf("%q is %v, %v", text, m, err)
		}
	}
	for text, ago := range map[string]time.Duration{"1h": time.Hour, "30d": 720 * time.Hour} {
		var m moment
		before := time.Now()
		if err := m.UnmarshalText([]byte(text)); err != nil || m.Before(before.Add(-ago)) || m.After(time.Now().Add(-ago)) {
			t.Errorf("%q is %v, %v", text, m, err)
		}
	}
	for _, text := range []string{"", "yesterday", "2026-02-30", "31.1.2026", "12:00", "2026-01"} {
		var m moment
		if err := m.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is %v", text, m)
		}
	}
}

// TestUnreadFlags checks that an error about a flag's value names the flag and the form that its help
// shows, not what the parser calls its types.
func TestUnreadFlags(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"event-types create --name x --schema 1", `--schema: "1" is not VERSION=FILE`},
		{"event-types update x --schema =invoice.json", `--schema: "=invoice.json" is not VERSION=FILE`},
		{"apps create --metadata plan", `--metadata: "plan" is not NAME=VALUE`},
		{"apps create --metadata a=1 --metadata a=2", `--metadata: a is given twice`},
		{"sources create --idempotency content", `--idempotency: "content" is not FIELD=VALUE`},
		{"endpoints create --concurrency many", `--concurrency: "many" is not a whole number`},
		{"endpoints create --retry-on 404,x", `--retry-on: "x" is not a whole number`},
		{"endpoints create --circuit-ratio half", `--circuit-ratio: "half" is not a number`},
		{"endpoints create --forward-query=maybe", `--forward-query: "maybe" is neither true nor false`},
		{"endpoints create --timeout soon", `--timeout: "soon" is not a duration such as`},
		{"endpoints list --limit=-1 --api-key kap_x", `--limit: must not be negative; 0 shows all`},
		{"deliveries list --replayed maybe", `--replayed must be one of "true","false" but got "maybe"`},
		{"publish --type", `--type: needs a value`},
	} {
		var out, errOut bytes.Buffer
		code := run(strings.Fields(c.args), streams{&out, &errOut})
		if code != 2 || !slices.ContainsFunc(strings.Split(errOut.String(), "\n"), func(line string) bool { return strings.HasPrefix(line, "kapsel: "+c.want) }) {
			t.Errorf("kapsel %s: exit code %d, %s; want %s", c.args, code, errOut.String(), c.want)
		}
	}
}
