package main

import (
	"bytes"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestWrongSettings checks that a wrong setting ends the process with exit code 2 and one line that
// names its variable and its flag, wherever the value came from, and that a long or secret value
// does not fill the line.
func TestWrongSettings(t *testing.T) {
	const secret = "hunter2-hunter2"
	long := secret + strings.Repeat("x", 100_000)
	for _, tt := range []struct {
		variable, flag string
		values         []string
		hidden         bool // what was given must not be repeated
	}{
		{"DATABASE_URL", "--database-url", []string{
			"", "mysql://a:" + secret + "@b/c", long,
			"sqlite:", "sqlite::memory:", "sqlite:///:memory:", "sqlite:file::memory:?cache=shared", "sqlite:file:x?mode=memory", "sqlite:file:x.db",
		}, true},
		{"KAPSEL_MIGRATE", "--migrate", []string{"", "ON", long}, false},
		{"LOG_LEVEL", "--log-level", []string{"", "trace", long}, false},
		{"LOG_FORMAT", "--log-format", []string{"", "xml", long}, false},
		{"KAPSEL_LISTEN", "--listen", []string{"", "127.0.0.1", long}, false},
		{"KAPSEL_METRICS_LISTEN", "--metrics-listen", []string{"9464", long}, false},
		{"KAPSEL_PUBLIC_URL", "--public-url", []string{"kapsel.example", "ftp://a", "http://", "https://a:" + secret + "@b", "https://a/?" + secret, "https://a/#b", long}, true},
		{"KAPSEL_ADMIN_KEY", "--admin-key", []string{secret, "kap_" + strings.Repeat(secret, 3), strings.Repeat(secret, 3) + " "}, true},
		{"KAPSEL_ENCRYPTION_KEY", "--encryption-key", []string{secret, long}, true},
		{"KAPSEL_EGRESS_ALLOW", "--egress-allow", []string{"10.0.0.0/33", "10.0.0.0/8:0", long}, false},
		{"KAPSEL_TRUSTED_PROXIES", "--trusted-proxies", []string{"10.0.0.0/33", long}, false},
		{"KAPSEL_NOTICES_TENANT", "--notices-tenant", []string{"acme", long}, false},
		{"KAPSEL_NOTICES_MAIL", "--notices-mail", []string{"ops@example.com", long}, false},
		{"KAPSEL_NOTICES_FROM", "--notices-from", []string{"ops@example.com", long}, false},
		{"KAPSEL_SMTP_URL", "--smtp-url", []string{"smtp://a:" + secret + "@b", long}, true},
		{"KAPSEL_OIDC_ISSUER", "--oidc-issuer", []string{"login.example.com", "http://login.example.com", "https://a:" + secret + "@b", "https://a/?" + secret, long}, true},
		{"KAPSEL_OIDC_CLIENT_ID", "--oidc-client-id", []string{"kapsel", long}, false},
		{"KAPSEL_OIDC_CLIENT_SECRET", "--oidc-client-secret", []string{secret, long}, true},
		{"KAPSEL_OIDC_ADMIN", "--oidc-admin", []string{"groups=admins", long}, false},
		{"KAPSEL_OIDC_TENANT", "--oidc-tenant", []string{"tenant", long}, false},
		{"KAPSEL_OIDC_WRITE", "--oidc-write", []string{"groups=writers", long}, false},
		{"KAPSEL_AUDIT_WITNESSES", "--audit-witnesses", []string{"https://a:" + secret + "@b", "w+1+key https://a:" + secret + "@b", long}, true},
		{"WORKER_POOL_SIZE", "--worker-pool-size", []string{"", "0", "1.5", "many", long}, false},
		{"CHANNEL_CAPACITY", "--channel-capacity", []string{"", "0", "-1", long}, false},
		{"KAPSEL_BODY_MEMORY", "--body-memory", []string{"", "1", "1PiB", long}, false},
		{"KAPSEL_MAX_BODY", "--max-body", []string{"", "0", "65MiB", "10MB", "64MiB1", long}, false},
		{"KAPSEL_NODE_LEASE", "--node-lease", []string{"", "10", "2.9s", "61s", long}, false},
		{"KAPSEL_DRAIN_DELAY", "--drain-delay", []string{"", "5", "-1s", "16s", long}, false},
	} {
		check := func(t *testing.T, value string, args ...string) {
			t.Helper()
			var out, errs bytes.Buffer
			if code := run(append([]string{"serve"}, args...), streams{&out, &errs}); code != 2 {
				t.Errorf("%.40q: exit code %d, want 2: %.300s", value, code, errs.String())
			}
			line := errs.String()
			if !strings.HasPrefix(line, "kapsel: "+tt.variable+" ("+tt.flag+"): ") || strings.Count(line, "\n") != 1 || len(line) > 1000 {
				t.Errorf("%.40q: the line is %.300q of %d bytes", value, line, len(line))
			}
			if tt.hidden && strings.Contains(line, secret) {
				t.Errorf("%.40q is repeated: %.300q", value, line)
			}
		}
		t.Run(tt.variable, func(t *testing.T) {
			t.Chdir(t.TempDir())
			t.Setenv("KAPSEL_LISTEN", "127.0.0.1:0")
			t.Setenv("KAPSEL_METRICS_LISTEN", "")
			for _, value := range tt.values {
				check(t, value, tt.flag+"="+value)
			}
			for _, value := range tt.values {
				t.Setenv(tt.variable, value)
				check(t, value)
			}
		})
	}
}

// TestSignOnSettings checks that wrong or partial settings of the single sign-on are refused by the name of
// the setting to change.
func TestSignOnSettings(t *testing.T) {
	const tenant = "ten_01m84z3e8wgaaxt5kys2q7z4mc"
	usual := serveSettings{OIDCIssuer: "https://login.example.com/", OIDCClientID: "kapsel", OIDCScopes: "openid email", OIDCAdmin: "groups=admins", PublicURL: "https://hooks.example.com"}
	for want, change := range map[string]func(*serveSettings){
		"": func(*serveSettings) {},
		" ": func(s *serveSettings) {
			s.OIDCIssuer, s.PublicURL = "http://127.0.0.1:5556/dex", "http://localhost:8080"
		},
		"  ": func(s *serveSettings) { s.PublicURL, s.Listen = "", "127.0.0.1:8080" },
		"   ": func(s *serveSettings) {
			s.OIDCAdmin, s.OIDCTenant, s.OIDCWrite = "", "team=a:b:"+tenant+",tenant", "groups=writers"
		},
		"KAPSEL_OIDC_CLIENT_ID": func(s *serveSettings) { s.OIDCClientID = "" },
		"KAPSEL_OIDC_CLIENT_ID (--oidc-client-id): must be at most": func(s *serveSettings) { s.OIDCClientID = "a b" },
		"KAPSEL_OIDC_SCOPES":                                                   func(s *serveSettings) { s.OIDCScopes = "email profile" },
		"KAPSEL_OIDC_ADMIN (--oidc-admin): without":                            func(s *serveSettings) { s.OIDCAdmin = "" },
		"KAPSEL_OIDC_ADMIN (--oidc-admin): \"admins\" is not":                  func(s *serveSettings) { s.OIDCAdmin = "admins" },
		"KAPSEL_OIDC_TENANT":                                                   func(s *serveSettings) { s.OIDCTenant = "team=acme" },
		"KAPSEL_OIDC_TENANT (--oidc-tenant): \"team=acme:ten_x\" does not end": func(s *serveSettings) { s.OIDCTenant = "team=acme:ten_x" },
		"KAPSEL_OIDC_WRITE (--oidc-write): is of no use":                       func(s *serveSettings) { s.OIDCWrite = "groups=writers" },
		"KAPSEL_OIDC_WRITE (--oidc-write): \"writers\" is not":                 func(s *serveSettings) { s.OIDCTenant, s.OIDCWrite = "tenant", "writers" },
		"KAPSEL_OIDC_ISSUER (--oidc-issuer): needs KAPSEL_PUBLIC_URL":          func(s *serveSettings) { s.PublicURL = "http://hooks.example.com" },
		"KAPSEL_OIDC_ISSUER (--oidc-issuer): needs":                            func(s *serveSettings) { s.PublicURL, s.Listen = "", "0.0.0.0:8080" },
		"KAPSEL_OIDC_ISSUER (--oidc-issuer): needs KAPSEL":                     func(s *serveSettings) { s.PublicURL, s.TLSCert, s.Listen = "", "cert.pem", "0.0.0.0:443" },
		"KAPSEL_OIDC_ISSUER (--oidc-issuer): must be":                          func(s *serveSettings) { s.OIDCIssuer = "http://192.0.2.1" },
	} {
		s := usual
		change(&s)
		err := s.checkSignOn()
		if want = strings.TrimSpace(want); (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if err == nil && s.signOn.Name == "" {
			t.Error("the provider has no name")
		}
	}
}

// TestMaxBody: the longest body may be a quarter of the memory for bodies, and the line that
// refuses a longer one names both settings.
func TestMaxBody(t *testing.T) {
	for _, tt := range []struct {
		max, memory string
		want        string // in the error; "": none
	}{
		{"64MiB", "256MiB", ""}, {"10MiB", "40MiB", ""}, {"1", "1MiB", ""}, {"25MiB", "100MiB", ""},
		{"64MiB", "255MiB", "64MiB is more than a quarter of KAPSEL_BODY_MEMORY (--body-memory), which is 255MiB; lower it to 65280KiB, or raise the memory to 256MiB"},
		{"10MiB", "1MiB", "lower it to 256KiB, or raise the memory to 40MiB"},
	} {
		s := serveSettings{MaxBody: tt.max, BodyMemory: &tt.memory}
		if err := s.checkBodies(); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s of %s: %v, want %q", tt.max, tt.memory, err, tt.want)
		}
	}
}

// TestDatabaseInMemory: a database that would not survive the process is refused by its name,
// by each command that opens one.
func TestDatabaseInMemory(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, command := range [][]string{{"serve"}, {"serve", "--dev"}, {"migrate"}, {"backup", "copy.db"}, {"rotate-key"}} {
		var out, errs bytes.Buffer
		code := run(append(command, "--database-url=sqlite::memory:"), streams{&out, &errs})
		if code != 2 || !strings.Contains(errs.String(), ":memory:") {
			t.Errorf("%v: exit code %d: %s", command, code, errs.String())
		}
	}
	if left, err := os.ReadDir("."); err != nil || len(left) > 0 {
		t.Errorf("files were made: %v, %v", left, err)
	}
}

// TestUnusable checks that a fault that another start may not meet does not count as a wrong
// setting.
func TestUnusable(t *testing.T) {
	t.Chdir(t.TempDir())
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	t.Setenv("KAPSEL_LISTEN", "127.0.0.1:0")
	t.Setenv("KAPSEL_METRICS_LISTEN", "")
	for _, tt := range []struct {
		flag, value string
		code        int
	}{
		{"listen", busy.Addr().String(), 1},
		{"metrics-listen", busy.Addr().String(), 1},
		{"listen", "192.0.2.1:0", 1}, // of no interface, perhaps not yet
		{"listen", "127.0.0.1:99999", 2},
	} {
		var out, errs bytes.Buffer
		code := run([]string{"serve", "--" + tt.flag + "=" + tt.value}, streams{&out, &errs})
		last := errs.String()[strings.LastIndexByte(strings.TrimSpace(errs.String()), '\n')+1:]
		if code != tt.code || !strings.HasPrefix(last, "kapsel: KAPSEL_") || !strings.Contains(last, "(--"+tt.flag+"): ") {
			t.Errorf("--%s=%s: exit code %d, want %d: %s", tt.flag, tt.value, code, tt.code, last)
		}
	}
	full := &os.PathError{Op: "write", Path: "admin.key", Err: syscall.ENOSPC}
	if _, wrong := unusable("KAPSEL_ADMIN_KEY", full).(badSetting); wrong {
		t.Error("a full disk is a wrong setting")
	}
	if _, wrong := unusable("KAPSEL_ADMIN_KEY", os.ErrPermission).(badSetting); !wrong {
		t.Error("a file that may not be read is no wrong setting")
	}
}

// TestFlagsOfNothing checks that a value which asks for nothing is refused by name, and is not taken for a flag that
// was left out.
func TestFlagsOfNothing(t *testing.T) {
	t.Setenv("KAPSEL_URL", "http://127.0.0.1:1")
	t.Setenv("KAPSEL_API_KEY", "kap_key")
	for line, want := range map[string]string{
		"keys create --name ci --expires-in 0s":     "kapsel: --expires-in: ",
		"keys create --name ci --expires-in=-1h":    "kapsel: --expires-in: ",
		"serve --dev --metrics-listen 0.0.0.0:9464": "kapsel: KAPSEL_METRICS_LISTEN (--metrics-listen): --dev listens on loopback only",
	} {
		var out, errs bytes.Buffer
		if code := run(strings.Fields(line), streams{&out, &errs}); code != 2 || !strings.HasPrefix(errs.String(), want) {
			t.Errorf("%s: exit code %d, %q", line, code, errs.String())
		}
	}
}
