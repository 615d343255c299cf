package e2e

import (
	"bytes"
	"crypto/x509"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/http"
	netmail "net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	_ "modernc.org/sqlite" // opens the file of a node that has stopped

	"github.com/kapsel-hq/kapsel/internal/harness"
)

// mailServer is a real SMTP server and the e-mails that it has taken.
type mailServer struct {
	t     *testing.T
	addr  string
	inbox string
}

// startMail starts a mail server on an address; see testdata/smtpd.py for secured.
func startMail(t *testing.T, addr string, secured ...string) *mailServer {
	t.Helper()
	m := &mailServer{t, addr, filepath.Join(t.TempDir(), "mail")}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/python3", append([]string{filepath.Join("testdata", "smtpd.py"), port, m.inbox}, secured...)...) // Debian's, which has aiosmtpd
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; scripts/tools installs it", err)
	}
	t.Cleanup(func() {
		input.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the mail server: %v\n%s", err, &output)
		}
	})
	eventually(t, "the mail server listens", patience, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return m
}

// letter is an e-mail.
type letter struct{ subject, text string }

// letters returns the e-mails that the server has taken.
func (m *mailServer) letters() (all []letter) {
	m.t.Helper()
	files, err := filepath.Glob(filepath.Join(m.inbox, "new", "*"))
	if err != nil {
		m.t.Fatal(err)
	}
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			m.t.Fatal(err)
		}
		got, err := netmail.ReadMessage(file)
		if err != nil {
			m.t.Fatal(err)
		}
		subject, err := new(mime.WordDecoder).DecodeHeader(got.Header.Get("Subject"))
		if err != nil {
			m.t.Fatal(err)
		}
		text, err := io.ReadAll(quotedprintable.NewReader(got.Body))
		file.Close()
		if err != nil {
			m.t.Fatal(err)
		}
		all = append(all, letter{subject, strings.ReplaceAll(string(text), "\r\n", "\n")})
	}
	return all
}

// told is a notice as a webhook tells it.
type told struct {
	Type string
	Data struct {
		NoticeID string `json:"notice_id"`
		State    string
		TenantID string `json:"tenant_id"`
		ObjectID string `json:"object_id"`
		Name     string
		Since    string
		Text     string
		Advice   string `json:"what_to_do"`
	}
}

// notices returns what a destination was told, after it has verified each signature as its owner would.
func notices(t *testing.T, sink *harness.Sink, secret string) (all []told) {
	t.Helper()
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range sink.Requests() {
		header := http.Header{}
		for _, h := range r.Header {
			header.Add(h[0], h[1])
		}
		if err := verifier.Verify(r.Body, header); err != nil {
			t.Errorf("a notice's signature: %v", err)
		}
		var n told
		if err := json.Unmarshal(r.Body, &n); err != nil {
			t.Errorf("a notice %s: %v", r.Body, err)
		}
		all = append(all, n)
	}
	return all
}

// hoursPass stops the node and makes what its SQLite file knows of notices older by an hour, and its counters
// by two: what is held for an hour has been, and of what was given up none is recent.
func (w *world) hoursPass() {
	w.t.Helper()
	node := w.nodes[0]
	if err := node.Term(); err != nil {
		w.t.Fatal(err)
	}
	<-node.Done()
	db, err := sql.Open("sqlite", strings.TrimPrefix(node.Env("DATABASE_URL"), "sqlite:"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	var text []byte
	var state map[string]json.RawMessage
	var held map[string]time.Time
	err = db.QueryRow("SELECT value FROM meta WHERE name = 'notices'").Scan(&text)
	if err == nil {
		err = json.Unmarshal(text, &state)
	}
	if err == nil {
		err = json.Unmarshal(state["Held"], &held)
	}
	for key := range held {
		held[key] = held[key].Add(-time.Hour)
	}
	if err == nil {
		state["Held"], err = json.Marshal(held)
	}
	if err == nil {
		text, err = json.Marshal(state)
	}
	if err == nil {
		_, err = db.Exec("UPDATE meta SET value = ? WHERE name = 'notices'", text)
	}
	if err == nil {
		_, err = db.Exec("UPDATE endpoint_stats SET hour = hour - ?", (2 * time.Hour).Microseconds())
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestNotices_EachKind checks, with the settings of the real program, that each kind of notice is told once
// when it begins and once when it is over: by webhooks to the operator's tenant and to the tenant whose
// object it is, and by e-mails, several in one, through a server that wants a password over STARTTLS. With a
// wrong password the log says so, and never which. What begins again at once is not told again.
func TestNotices_EachKind(t *testing.T) {
	t.Parallel() // it waits for the node that looks, and for what must be silent for a minute
	cert, key := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	certify(t, cert, key, x509.NewCertPool())
	const user, password, wrong = "kapsel", "the right p@ssword", "a-wrong-p@ssword"
	mailAt := freeAddr(t)
	mail := startMail(t, mailAt, cert, key, user, password)
	smtp := func(password string) string {
		return "KAPSEL_SMTP_URL=smtp://" + user + ":" + strings.ReplaceAll(strings.ReplaceAll(password, "@", "%40"), " ", "%20") + "@" + mailAt
	}

	w := newWorld(t, "", "KAPSEL_EGRESS_ALLOW=127.0.0.0/8", "SSL_CERT_FILE="+cert)
	node := w.nodes[0]
	tenant := func(name string, limits map[string]any) string {
		t.Helper()
		var made struct{ ID string }
		if err := node.API(w.ctx, http.MethodPost, "/v1/tenants", map[string]any{"name": name, "limits": limits}, &made); err != nil {
			t.Fatal(err)
		}
		return made.ID
	}
	operator, metered := tenant("operator", nil), tenant("metered", map[string]any{"events_per_month": 10})
	alerts := func(tenant string) (*harness.Sink, string) {
		t.Helper()
		s := newSink(t)
		var made struct {
			Secret string `json:"signing_secret"`
		}
		if err := node.API(w.ctx, http.MethodPost, "/v1/endpoints?tenant_id="+tenant, map[string]any{
			"name": "alerts", "url": s.URL(0), "subscriptions": []any{map[string]any{"source": "publish", "event_types": []string{"kapsel.notice.*"}}},
		}, &made); err != nil {
			t.Fatal(err)
		}
		return s, made.Secret
	}
	operators, operatorSecret := alerts(operator)
	tenants, tenantSecret := alerts(w.tenant)
	node.Set("KAPSEL_NOTICES_TENANT=" + operator)
	node.Set("KAPSEL_NOTICES_MAIL=ops@example.com")
	node.Set(smtp(wrong))
	w.restart()

	var answers sync.Map // of the destinations, by path
	w.sink.Script(func(r harness.SinkRequest) harness.Answer {
		status, _ := answers.Load(r.Path)
		is, _ := status.(int)
		return harness.Answer{Status: is}
	})
	endpoint := func(tenant, name string, fields map[string]any) harness.Endpoint {
		t.Helper()
		all := map[string]any{"name": name, "url": strings.Replace(w.sink.URL(0), "/hook", "/"+name, 1)}
		maps.Copy(all, fields)
		e, err := node.CreateEndpoint(w.ctx, tenant, all)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	send := func(e harness.Endpoint, n int) {
		t.Helper()
		for range n {
			if code, _, _ := post(t, e.IngestURL, nil, strings.NewReader("{}")); code != 200 {
				t.Fatalf("answered %d", code)
			}
		}
	}
	silent := endpoint(w.tenant, "silent", map[string]any{"expect_every": "1m"})
	counted := endpoint(metered, "counted", nil)
	send(counted, 8)
	letters := endpoint(w.tenant, "letters", nil)
	send(letters, 1)
	w.quiet()
	answers.Store("/letters", 404)
	send(letters, 10)
	answers.Store("/gone", 410)
	gone := endpoint(w.tenant, "gone", nil)
	send(gone, 1)
	answers.Store("/failing", 500)
	failing := endpoint(w.tenant, "failing", map[string]any{"retry": fastRetry, "circuit": map[string]any{"open_for": "1s"}})
	send(failing, 10)

	// seen returns how often the operator was told that a kind of notice begins and that it is over.
	type counts struct{ begun, over int }
	seen := func(sink *harness.Sink, secret string) map[string]counts {
		t.Helper()
		all, ids := map[string]counts{}, map[string]string{}
		for _, n := range notices(t, sink, secret) {
			kind := strings.TrimPrefix(n.Type, "kapsel.notice.") + " of " + n.Data.Name
			c := all[kind]
			switch n.Data.State {
			case "begun":
				c.begun++
				ids[kind] = n.Data.NoticeID
				if n.Data.Text == "" || n.Data.Advice == "" || n.Data.Since == "" {
					t.Errorf("a notice lacks what it is for: %+v", n)
				}
			case "over":
				c.over++
				if ids[kind] != n.Data.NoticeID {
					t.Errorf("%s is over as %s and began as %s", kind, n.Data.NoticeID, ids[kind])
				}
			}
			all[kind] = c
		}
		return all
	}
	ofTenant := []string{"circuit_open of failing", "endpoint_failing of failing", "endpoint_disabled of gone", "dead_letters of letters", "nothing_received of silent"}
	all := append(slices.Clone(ofTenant), "quota_nearly_used of metered")
	await := func(what string, kinds []string, is counts) {
		t.Helper()
		defer func() {
			if t.Failed() {
				t.Logf("the operator was told %v, the tenant %v", seen(operators, operatorSecret), seen(tenants, tenantSecret))
			}
		}()
		eventually(t, what, patience, func() bool {
			operators, tenants := seen(operators, operatorSecret), seen(tenants, tenantSecret)
			return !slices.ContainsFunc(kinds, func(kind string) bool {
				return operators[kind] != is || slices.Contains(ofTenant, kind) && tenants[kind] != is
			})
		})
	}
	await("the notices of what is so now", slices.DeleteFunc(slices.Clone(all), func(k string) bool { return strings.HasPrefix(k, "endpoint_failing") }), counts{1, 0})
	output := func() []byte {
		t.Helper()
		text, err := os.ReadFile(node.Output)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	eventually(t, "the log says that the password is wrong", patience, func() bool {
		return bytes.Contains(output(), []byte("it refuses the user or the password of its URL: 535"))
	})
	if got := mail.letters(); len(got) > 0 {
		t.Errorf("without the password the server took %v", got)
	}

	// With the right password everything that waited is in one e-mail.
	w.hoursPass()
	answers.Store("/letters", 200)
	node.Set(smtp(password))
	if err := node.Start(w.ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an e-mail arrives", patience, func() bool { return len(mail.letters()) > 0 })
	for _, kind := range []string{"the circuit of endpoint failing is open", "endpoint gone was disabled", "were given up", "nothing came in at endpoint silent", "tenant metered has used 8 of its 10"} {
		if first := mail.letters()[0]; !strings.Contains(first.text, "Notice: ") || !strings.Contains(first.text, kind) {
			t.Errorf("the first e-mail does not say %q: %s\n%s", kind, first.subject, first.text)
		}
	}
	await("an hour without success", []string{"endpoint_failing of failing"}, counts{1, 0})

	// All is mended.
	answers.Store("/failing", 200)
	answers.Store("/gone", 200)
	w.act(gone, "resume")
	send(silent, 1)
	if err := node.API(w.ctx, http.MethodPatch, "/v1/tenants/"+metered, map[string]any{"limits": map[string]any{"events_per_month": 1000}}, nil); err != nil {
		t.Fatal(err)
	}
	await("everything is over", all, counts{1, 1})
	told := len(notices(t, operators, operatorSecret))
	eventually(t, "the e-mails say so", patience, func() bool {
		var text string
		for _, l := range mail.letters() {
			text += l.text
		}
		return strings.Count(text, "Notice: ") == len(all) && strings.Count(text, "Over (") == len(all)
	})
	if n := len(mail.letters()); n >= told {
		t.Errorf("%d e-mails tell %d messages", n, told)
	}

	// What begins again so soon is not told, while something else is.
	answers.Store("/failing", 500)
	send(failing, 20)
	eventually(t, "the circuit is open again", patience, func() bool {
		var e struct{ Circuit struct{ State string } }
		w.get("/v1/endpoints/"+failing.ID, &e)
		return e.Circuit.State == "open"
	})
	answers.Store("/later", 410)
	send(endpoint(w.tenant, "later", nil), 1)
	await("the other notice", []string{"endpoint_disabled of later"}, counts{1, 0})
	for _, sink := range []map[string]counts{seen(operators, operatorSecret), seen(tenants, tenantSecret)} {
		if c := sink["circuit_open of failing"]; c != (counts{1, 1}) {
			t.Errorf("within a quarter of an hour the circuit was told %+v", c)
		}
	}
	if got := seen(tenants, tenantSecret); got["quota_nearly_used of metered"] != (counts{}) {
		t.Error("a tenant is told of another")
	}
	for _, secret := range []string{password, wrong, base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + wrong)), "p%40ssword"} {
		if bytes.Contains(output(), []byte(secret)) {
			t.Errorf("the log has the password as %q", secret)
		}
	}
}

// restart stops the first node and starts it again, with the settings that it has by now.
func (w *world) restart() {
	w.t.Helper()
	node := w.nodes[0]
	if err := node.Term(); err != nil {
		w.t.Fatal(err)
	}
	<-node.Done()
	if err := node.Start(w.ctx); err != nil {
		w.t.Fatal(err)
	}
}
