package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

func TestUnknownVariables(t *testing.T) {
	model := kong.Must(&cli{}).Model.Node
	for _, tt := range []struct {
		variable string
		meant    string // "": none
		unknown  bool   // passed over with a warning
	}{
		{"KAPSEL_LISTEN", "", false},
		{"KAPSEL_URL", "", false},
		{"KAPSEL_LISTN", "KAPSEL_LISTEN", false},
		{"KAPSEL_LITSEN", "KAPSEL_LISTEN", false},
		{"KAPSEL_LISTEN_", "KAPSEL_LISTEN", false},
		{"KAPSEL_BODYMEMORY", "KAPSEL_BODY_MEMORY", false},
		{"KAPSEL_EGRES_ALOW", "KAPSEL_EGRESS_ALLOW", false},
		{"KAPSEL_APIKEY", "KAPSEL_API_KEY", false},
		{"KAPSEL_LISN", "KAPSEL_LISTEN", false},
		{"KAPSEL_LIS", "", true}, // three edits
		{"KAPSEL_FLAVOUR", "", true},
		{"KAPSEL_", "", true},
		{"KAPSEL_PORT", "", false},
		{"KAPSEL_SERVICE_HOST", "", false},
		{"KAPSEL_SERVICE_PORT", "", false},
		{"KAPSEL_SERVICE_PORT_HTTP", "", false},
		{"KAPSEL_PORT_8080_TCP", "", false},
		{"KAPSEL_PORT_8080_TCP_ADDR", "", false},
		{"KAPSEL_METRICS_PORT_9464_TCP_PROTO", "", false},
		{"KAPSEL_PORT_8080_TCP_ADR", "", true},
		{"KAPSL_LISTEN", "", false}, // may be anybody's
		{"kapsel_listen", "", false},
	} {
		unknown, err := checkEnvironment(model, []string{"PATH=/bin", tt.variable + "=hunter2"})
		switch {
		case tt.meant == "" && err != nil, tt.meant != "" && err == nil:
			t.Errorf("%s: %v", tt.variable, err)
		case err != nil && err.Error() != tt.variable+": is no setting; is "+tt.meant+" meant?":
			t.Errorf("%s: %v", tt.variable, err)
		}
		if got := slices.Equal(unknown, []string{tt.variable}); got != tt.unknown {
			t.Errorf("%s: passed over: %q", tt.variable, unknown)
		}
	}
}

// TestMistypedVariables checks that every command that does something refuses mistyped variables,
// and that commands that only print something do not.
func TestMistypedVariables(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("KAPSEL_LISTN", "127.0.0.1:0")
	for args, want := range map[string]int{
		"serve": 2, "migrate": 2, "backup file": 2, "tenants list": 2, "health": 2, "rotate-key": 2, "serve --help": 0, "--help": 0,
	} {
		var out, errs bytes.Buffer
		if code := run(strings.Fields(args), streams{&out, &errs}); code != want {
			t.Errorf("%s: exit code %d, want %d: %s", args, code, want, errs.String())
		}
		if text := errs.String(); want == 2 && text != "kapsel: KAPSEL_LISTN: is no setting; is KAPSEL_LISTEN meant?\n" {
			t.Errorf("%s: %q", args, text)
		}
	}
}

func TestBrokenTelemetryVariables(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318")
	var out, errs bytes.Buffer
	code := run([]string{"serve", "--dev", "--listen=127.0.0.1:0", "--metrics-listen="}, streams{&out, &errs})
	if code != 2 || !strings.HasPrefix(errs.String(), "kapsel: OTEL_EXPORTER_OTLP_ENDPOINT: must be a URL") {
		t.Errorf("exit code %d: %s", code, errs.String())
	}
}
