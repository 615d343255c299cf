package main

import (
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
