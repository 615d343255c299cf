package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kapsel-hq/kapsel/internal/browsertest"
)

// signOn is Kapsel and a provider written by others, each a process of its own.
type signOn struct {
	*child
	issuer   string // with a slash at the end
	tenant   string
	log      string // file of what Kapsel logs
	start    func() // starts the provider
	provider string // the program
}

func newSignOn(t *testing.T, client, secret string) *signOn {
	t.Helper()
	s := &signOn{issuer: "http://" + freeAddr(t) + "/", log: filepath.Join(t.TempDir(), "log"), provider: filepath.Join(t.TempDir(), "provider")}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", s.provider, ".")
	build.Dir = "../oidc/provider"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the provider: %v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), program(t), "serve")
	log, err := os.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	cmd.Stdout, cmd.Stderr = log, log
	s.child = startChild(t, cmd,
		"KAPSEL_OIDC_ISSUER="+s.issuer, "KAPSEL_OIDC_CLIENT_ID="+client, "KAPSEL_OIDC_CLIENT_SECRET="+secret, "KAPSEL_OIDC_NAME=Example",
		"KAPSEL_OIDC_ADMIN=groups=kapsel-admins,email=ann@example.com", "KAPSEL_OIDC_TENANT=kapsel_tenant", "KAPSEL_OIDC_WRITE=groups=writers")
	s.ready()
	if s.tenant, err = s.CreateTenant(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	s.start = func() {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), s.provider, strings.Trim(strings.TrimPrefix(s.issuer, "http:"), "/"), s.URL+"/sign-in/oidc/callback", s.tenant)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		s.until("the provider answers", func() bool {
			resp, err := http.Get(s.issuer + ".well-known/openid-configuration")
			if err != nil {
				return false
			}
			resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
	}
	return s
}

// visitor is a browser without scripts.
type visitor struct {
	*http.Client
	s *signOn
}

func (s *signOn) visitor() visitor {
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return visitor{&http.Client{Jar: jar, Timeout: patience}, s}
}

// read returns an answer with the URL that it came from.
func (v visitor) read(resp *http.Response, err error) (at string, status int, body string) {
	v.s.t.Helper()
	if err != nil {
		v.s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		v.s.t.Fatal(err)
	}
	return resp.Request.URL.String(), resp.StatusCode, string(text)
}

// post sends a form of a page of Kapsel's.
func (v visitor) post(path string, form url.Values) (at string, status int, body string) {
	v.s.t.Helper()
	r, err := http.NewRequestWithContext(v.s.t.Context(), http.MethodPost, v.s.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		v.s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", v.s.URL)
	return v.read(v.Do(r))
}

var requestID = regexp.MustCompile(`name="id" value="([^"]+)"`)

// signIn follows the button of the sign-in page to the provider, says there who it is, and comes back.
func (v visitor) signIn(name string) (at string, status int, body string) {
	v.s.t.Helper()
	at, _, body = v.read(v.Get(v.s.URL + "/sign-in/oidc?next=%2Fkeys"))
	id := requestID.FindStringSubmatch(body)
	if !strings.HasPrefix(at, v.s.issuer) || id == nil {
		v.s.t.Fatalf("the sign-in leads to %s: %.500s", at, body)
	}
	return v.read(v.PostForm(v.s.issuer+"login/username", url.Values{"id": {id[1]}, "username": {name}, "password": {"verysecure"}}))
}

// TestSignOn_S11 checks that people sign in at a provider written by others, with and without a secret of the
// client, with the rights that its claims give, and that nothing secret of it is in the log.
func TestSignOn_S11(t *testing.T) {
	for client, secret := range map[string]string{"kapsel": "secret: 100%", "kapsel-public": ""} {
		t.Run(client, func(t *testing.T) {
			s := newSignOn(t, client, secret)
			// The provider is down: Kapsel serves, and says so.
			if _, status, body := s.visitor().read(s.visitor().Get(s.URL + "/sign-in/oidc")); status != http.StatusServiceUnavailable || !strings.Contains(body, "Example does not answer") {
				t.Errorf("while the provider is down: %d, %.2000s", status, body)
			}
			s.start()
			s.until("the provider is found", func() bool {
				at, _, _ := s.visitor().read(s.visitor().Get(s.URL + "/sign-in/oidc"))
				return strings.HasPrefix(at, s.issuer)
			})
			for _, c := range []struct {
				name          string
				keys, tenants bool // may make
				listed        string
			}{
				{name: "ann", keys: true, tenants: true, listed: "as the operator"},
				{name: "bob", listed: "may only read"},
				{name: "cat", keys: true, listed: "may change things"},
			} {
				v := s.visitor()
				if at, status, body := v.signIn(c.name); at != s.URL+"/keys" || status != http.StatusOK {
					t.Fatalf("%s comes back to %s, %d: %.2000s", c.name, at, status, body)
				}
				if _, _, body := v.read(v.Get(s.URL + "/sessions")); !strings.Contains(body, c.name+"@example.com") || !strings.Contains(body, c.listed) {
					t.Errorf("the session of %s is not listed with %q", c.name, c.listed)
				}
				for path, want := range map[string]bool{"/keys?tenant=" + s.tenant: c.keys, "/tenants": c.tenants} {
					if _, status, body := v.post(path, url.Values{"name": {"by " + c.name}, "scope": {"read"}}); (status == http.StatusOK) != want || status != http.StatusOK && status != http.StatusForbidden {
						t.Errorf("%s posts to %s: %d, %.1000s", c.name, path, status, body)
					}
				}
			}
			// Eve's address is Ann's, but nobody has verified that it is hers.
			if at, status, body := s.visitor().signIn("eve"); status != http.StatusForbidden || !strings.HasPrefix(at, s.URL) || !strings.Contains(body, "nothing here is open to you") {
				t.Errorf("eve comes back to %s, %d: %.2000s", at, status, body)
			}
			var changes struct {
				Data []struct {
					By struct{ Kind, Subject, Name string }
				}
			}
			if err := s.API(t.Context(), http.MethodGet, "/v1/changes?kind=key&tenant_id="+s.tenant, nil, &changes); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(changes.Data); got != "[{{session id-cat cat@example.com}} {{session id-ann ann@example.com}}]" {
				t.Errorf("the changes are by %s", got)
			}
			log, err := os.ReadFile(s.log)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(log), "a person signed in") {
				t.Error("the log does not say who signed in")
			}
			for _, hidden := range []string{"eyJ", "secret: 100%", "code="} {
				if strings.Contains(string(log), hidden) {
					t.Errorf("the log has %q", hidden)
				}
			}
		})
	}
}

// TestSignOn_S16 checks that a browser goes to the provider and comes back without a violation of the policy
// of Kapsel's pages, and that a session of a person is one like any other.
func TestSignOn_S16(t *testing.T) {
	s := newSignOn(t, "kapsel", "secret: 100%")
	s.start()
	b := browsertest.Open(t, false, s.URL, s.issuer)
	b.Open(s.URL + "/sessions")
	b.Press("Sign in with Example")
	b.Enter("#username", "cat")
	b.Enter("#password", "verysecure")
	b.Press("Login")
	b.WaitFor(`location.pathname === "/sessions" && document.body.innerText.includes("cat@example.com")`)
	b.Press("Sign out")
	b.WaitFor(`location.pathname === "/sign-in"`)
	b.AllWell("after a sign-in at the provider")
}
