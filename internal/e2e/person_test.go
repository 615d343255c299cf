package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/kapsel-hq/kapsel/internal/browsertest"
	"github.com/kapsel-hq/kapsel/internal/harness"
)

// newSink opens one more destination, which keeps what it gets.
func newSink(t *testing.T) *harness.Sink {
	t.Helper()
	s, err := harness.NewSink("127.0.0.1:0", harness.OK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	s.Record(true)
	return s
}

// printedKey is how the admin key is printed at the first start.
var printedKey = regexp.MustCompile(`admin key \(shown once, kept in [^)]*\): (\S+)`)

// TestPerson_FirstStartToAllDelivered lets a person, in a browser, go from the first start of an empty
// directory to an endpoint whose destination has failed and is mended: each page leads to the next, the
// circuit opens on the page that is open, a notice and an e-mail tell it, and a replay of the dead letters
// delivers everything.
func TestPerson_FirstStartToAllDelivered(t *testing.T) {
	t.Parallel() // it waits for the node that looks for notices
	mailAt := freeAddr(t)
	mail := startMail(t, mailAt)
	shop, alerts := newSink(t), newSink(t)
	w := &world{t: t, ctx: t.Context(), bin: program(t), sink: shop, sqlite: true, env: []string{
		"KAPSEL_ADMIN_KEY=", "KAPSEL_ENCRYPTION_KEY=", // as nobody has set them yet
		"KAPSEL_EGRESS_ALLOW=" + shop.Network() + "," + alerts.Network(),
		"KAPSEL_SMTP_URL=smtp://" + mailAt, "KAPSEL_NOTICES_MAIL=ops@example.com",
	}}
	node := w.node()
	output, err := os.ReadFile(node.Output)
	if err != nil {
		t.Fatal(err)
	}
	printed := printedKey.FindSubmatch(output)
	if printed == nil {
		t.Fatalf("the first start prints no admin key: %s", output)
	}
	node.AdminKey = string(printed[1])

	b := browsertest.Open(t, false, node.URL)
	b.Open(node.URL + "/")
	b.WaitFor(`location.pathname === "/sign-in"`)
	b.Enter("#key", node.AdminKey)
	b.Press("Sign in")
	b.Press("Make a tenant") // of the overview, which leads there
	b.WaitFor(`location.pathname === "/tenants"`)
	b.Enter(`form[action="/tenants"] input[name=name]`, "acme")
	b.Press("Make a tenant")
	b.WaitFor(`location.pathname === "/" && location.search.startsWith("?tenant=ten_")`)
	tenant := browsertest.Value[string](b, `new URLSearchParams(location.search).get("tenant")`)

	b.Press("Make an endpoint")
	b.Enter("#name", "orders")
	b.Enter("#url", shop.URL(0))
	b.Submit("Make the endpoint")
	ingest := browsertest.Value[string](b, `document.getElementById("ingest").textContent`)
	if secret := browsertest.Value[string](b, `document.getElementById("secret").textContent`); !strings.HasPrefix(secret, "whsec_") {
		t.Errorf("the page of a new endpoint shows the secret %.8q", secret)
	}
	b.Press("Go to the endpoint")
	b.Press("Edit")
	b.WaitFor(`location.pathname.endsWith("/edit")`)
	b.Enter(`input[name="retry.max_attempts"]`, "1") // so that each failure is a dead letter
	b.Press("Save")
	b.WaitFor(`!location.pathname.endsWith("/edit")`)
	b.Press("Send a test event")
	b.WaitFor(`location.pathname.startsWith("/events/evt_")`)
	eventually(t, "the test event arrives", patience, func() bool { return len(shop.Requests()) == 1 })
	b.Until("the event's page says that it was delivered", func() bool {
		b.Open(browsertest.Value[string](b, "location.href"))
		return browsertest.Value[bool](b, `[...document.querySelectorAll(".timeline li")].some(li => li.textContent.includes("Delivered"))`)
	})
	b.AllWell("up to the first delivered event")

	// What somebody on call does beforehand. The page of endpoints makes no subscriptions to notices.
	made := struct {
		Secret string `json:"signing_secret"`
	}{}
	if err := json.Unmarshal([]byte(w.kapsel("endpoints", "create", "--tenant", tenant, "--name", "alerts", "--url", alerts.URL(0), "--subscribe", "publish:kapsel.notice.*", "--json")), &made); err != nil {
		t.Fatal(err)
	}

	if err := shop.SetMode(harness.Fail); err != nil {
		t.Fatal(err)
	}
	b.Open(node.URL + "/?tenant=" + tenant)
	b.WaitFor(`document.getElementById("live-state").textContent === "live"`)
	b.WaitFor(`(window.untouched = true)`) // a page that is loaded again has not got this
	sent := []string{}
	open := func() bool {
		var e struct{ Circuit struct{ State string } }
		w.get("/v1/endpoints/"+ingest[strings.LastIndex(ingest, "/")+1:], &e)
		return e.Circuit.State == "open"
	}
	eventually(t, "the circuit opens", patience, func() bool {
		if open() {
			return true
		}
		status, _, event := post(t, ingest, nil, strings.NewReader(fmt.Sprintf(`{"order":%d}`, len(sent))))
		if status != 200 {
			t.Fatalf("answered %d", status)
		}
		sent = append(sent, event)
		return false
	})
	b.WaitFor(`window.untouched === true && [...document.querySelectorAll(".attention li")].some(li => li.textContent.includes("orders") && li.textContent.includes("circuit open"))`)
	b.WaitFor(`window.untouched === true && document.querySelector('.attention a[href^="/dead-letters"]') !== null`)

	told := func(kind, state string) bool {
		for _, n := range notices(t, alerts, made.Secret) {
			if n.Type == "kapsel.notice."+kind && n.Data.State == state && n.Data.Name == "orders" && n.Data.Text != "" {
				return true
			}
		}
		return false
	}
	eventually(t, "the notice arrives", patience, func() bool { return told("circuit_open", "begun") })
	eventually(t, "the e-mail arrives", patience, func() bool {
		return slices.ContainsFunc(mail.letters(), func(l letter) bool {
			return strings.HasPrefix(l.subject, "Kapsel: ") && strings.Contains(l.text, "the circuit of endpoint orders is open") && strings.Contains(l.text, "What to do: ")
		})
	})

	// The destination is mended, but does not answer yet: the replay's progress is to be seen.
	answer := make(chan struct{})
	shop.Script(func(harness.SinkRequest) harness.Answer { <-answer; return harness.Answer{} })
	b.Press("orders")
	b.WaitFor(`location.pathname.startsWith("/endpoints/")`)
	b.Press("Close the circuit now")
	eventually(t, "the circuit closes", patience, func() bool { return !open() })
	b.Press("Dead letters")
	b.WaitFor(`location.pathname === "/dead-letters"`)
	b.Submit("Replay all of the endpoint…")
	b.WaitFor(`document.querySelector("main .lead b") !== null && document.querySelector("main form button.primary") !== null`)
	look := browsertest.Value[string](b, `document.querySelector("main .lead b").textContent`)
	b.WaitFor(`(e => e !== null && (e.click(), true))(document.querySelector("main form button.primary"))`)
	b.WaitFor(`document.getElementById("bar") !== null`)
	b.WaitFor(`(window.untouched = true)`)
	if n, _, _ := strings.Cut(look, " "); browsertest.Value[string](b, `document.getElementById("bar").max + ""`) != n {
		t.Errorf("the look first said %s, and the replay is of another number", look)
	}
	if done := browsertest.Value[float64](b, `document.getElementById("bar").value`); done != 0 {
		t.Errorf("%v are delivered before the destination answers", done)
	}
	close(answer)
	b.WaitFor(`window.untouched === true && (bar => bar.max > 0 && bar.value === bar.max)(document.getElementById("bar"))`)
	b.WaitFor(`window.untouched === true && document.querySelector("#progress .badge").textContent === "done"`)
	b.AllWell("up to the end of the replay")

	w.quiet()
	arrived := map[string]bool{}
	for _, r := range shop.Requests() {
		if r.Answered == 200 {
			arrived[r.EventID] = true
		}
	}
	for _, id := range sent {
		if !arrived[id] {
			t.Errorf("event %s never arrived", id)
		}
	}
	if left := list[delivery](w, "/v1/deliveries", url.Values{"status": {"dead_letter"}, "replayed": {"false"}}); len(left) > 0 {
		t.Errorf("%d dead letters are left", len(left))
	}
	eventually(t, "the notice is over", patience, func() bool { return told("circuit_open", "over") })
	b.Open(node.URL + "/dead-letters?tenant=" + tenant)
	if n := browsertest.Value[int](b, `document.querySelectorAll("input[name=delivery]").length`); n != 0 {
		t.Errorf("the page shows %d dead letters", n)
	}
	b.AllWell("at the end")
}

// TestPerson_CustomerInAFrame lets a customer use the portal in a frame of a page on another site, over
// HTTPS: they add an endpoint, test it, see why an attempt failed, and send again. What belongs to another
// customer is answered with the bytes of what there is not.
func TestPerson_CustomerInAFrame(t *testing.T) {
	// As in front of a real Kapsel, a proxy speaks TLS.
	var behind atomic.Pointer[httputil.ReverseProxy]
	front := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { behind.Load().ServeHTTP(rw, r) }))
	defer front.Close()
	w := newWorld(t, "", "KAPSEL_PUBLIC_URL="+front.URL, "KAPSEL_TRUSTED_PROXIES=127.0.0.1/32")
	w.sink.Record(true)
	node, err := url.Parse(w.nodes[0].URL)
	if err != nil {
		t.Fatal(err)
	}
	behind.Store(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(node)
		r.Out.Host = r.In.Host
		r.SetXForwarded()
	}})

	w.kapsel("event-types", "create", "--tenant", w.tenant, "--name", "invoice.paid", "-q")
	for _, app := range []string{"ada", "bob"} {
		w.kapsel("apps", "create", "--uid", app, "-q")
	}
	others := strings.TrimSpace(w.kapsel("endpoints", "create", "--app", "bob", "--name", "bob's", "--url", w.sink.URL(2), "--subscribe", "publish", "-q"))
	theirs := strings.TrimSpace(w.kapsel("publish", "--app", "bob", "--type", "invoice.paid", "--data", `{"of":"bob"}`, "-q"))

	var link string
	site := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(rw, `<!DOCTYPE html><title>shop</title><link rel="icon" href="data:,"><h1>Webhooks</h1><iframe src=%q width="1000" height="700"></iframe>`, link)
	}))
	defer site.Close()
	_, port, err := net.SplitHostPort(site.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	shop := "http://localhost:" + port // another site than 127.0.0.1, not only another origin
	link = strings.TrimSpace(w.kapsel("portal-links", "create", "--tenant", w.tenant, "--app", "ada", "--mode", "manage", "--site", shop, "-q"))
	outer := browsertest.Open(t, true, shop, front.URL)
	outer.Open(shop)
	b := outer.Frame(front.URL)
	b.WaitFor(`location.pathname === "/portal"`)

	w.sink.Script(func(r harness.SinkRequest) harness.Answer { return harness.Answer{Status: 400, Body: "no such order"} })
	b.Press("Add an endpoint")
	b.WaitFor(`location.pathname === "/portal/new"`)
	b.Enter("#name", "my orders")
	b.Enter("#url", w.sink.URL(1))
	b.WaitFor(`(box => box !== null && (box.click(), box.checked))(document.querySelector('input[name=type][value="invoice.paid"]'))`)
	b.Submit("Add")
	secret := browsertest.Value[string](b, `document.getElementById("secret").textContent`)
	b.Press("Go on to the endpoint")
	b.WaitFor(`location.pathname.startsWith("/portal/endpoints/ep_")`)
	mine := browsertest.Value[string](b, `location.pathname.split("/").pop()`)
	b.Press("Send a test event")
	b.WaitFor(`location.pathname.startsWith("/portal/events/evt_")`)
	again := func(what, shown string) {
		t.Helper()
		b.Until(what, func() bool {
			b.WaitFor(`(location.reload(), true)`)
			b.WaitFor(`document.readyState === "complete" && document.querySelector("main h1") !== null`)
			return browsertest.Value[bool](b, shown)
		})
	}
	again("the attempt and its answer are shown", `[...document.querySelectorAll(".timeline li")].some(li => li.textContent.includes("400") && li.textContent.includes("no such order"))`)

	published := strings.TrimSpace(w.kapsel("publish", "--app", "ada", "--type", "invoice.paid", "--data", `{"of":"ada"}`, "-q"))
	w.kapsel("publish", "--app", "ada", "--type", "order.made", "--data", `{}`, "-q") // which the customer has not chosen
	w.quiet()
	w.sink.Script(nil)
	b.Press("Events")
	b.WaitFor(`location.pathname === "/portal/events"`)
	b.WaitFor(fmt.Sprintf(`(a => a !== null && (a.click(), true))(document.querySelector('a[href="/portal/events/%s"]'))`, published))
	b.WaitFor(fmt.Sprintf(`location.pathname === "/portal/events/%s"`, published))
	b.Submit("Send again")
	again("it was delivered", `[...document.querySelectorAll(".badge")].some(x => x.textContent === "delivered")`)

	got := map[string][]int{} // the answers to each event of the customer
	for _, r := range w.sink.Requests() {
		if r.To.Addr().String() != "127.1.0.1" {
			continue
		}
		got[r.EventID] = append(got[r.EventID], r.Answered)
		header := http.Header{}
		for _, h := range r.Header {
			header.Add(h[0], h[1])
		}
		verifier, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		if err := verifier.Verify(r.Body, header); err != nil {
			t.Errorf("with the secret of the page: %v", err)
		}
	}
	if len(got) != 2 || fmt.Sprint(got[published]) != "[400 200]" {
		t.Errorf("the customer's endpoint was sent %v, want a test event and %s twice", got, published)
	}

	// fetch returns what the customer is answered, without the ID that each answer has of its own. What it
	// posts is of the visit that the page's forms are of.
	visit := browsertest.Value[string](b, `document.querySelector('input[name=visit]').value`)
	fetch := func(method, path string) string {
		t.Helper()
		return browsertest.Value[string](b, fmt.Sprintf(`fetch(%q, {method: %q, body: `+strconv.Quote("visit="+visit)+`.repeat(%[2]q === "POST") || undefined, headers: {"Content-Type": "application/x-www-form-urlencoded"}}).then(async r => r.status + " " + (await r.text()).replace(/req_\w+/g, ""))`, path, method))
	}
	const noEndpoint, noEvent = "ep_01m84yz4zqfgjtcypmsesbpznb", "evt_01m84yz4zqfgjtcypmsesbpznb"
	for _, ask := range [][2]string{
		{"GET", "/portal/endpoints/EP"}, {"GET", "/portal/events/EVT"}, {"GET", "/portal/events?endpoint=EP"}, {"POST", "/portal/endpoints/EP/test"},
		{"POST", "/portal/endpoints/EP/pause"}, {"POST", "/portal/endpoints/EP/rotate"}, {"POST", "/portal/endpoints/EP/delete"}, {"POST", "/portal/events/EVT/send"},
	} {
		of := func(endpoint, event string) string {
			return fetch(ask[0], strings.NewReplacer("EP", endpoint, "EVT", event).Replace(ask[1]))
		}
		is, missing := of(others, theirs), of(noEndpoint, noEvent)
		if is != missing || !strings.HasPrefix(missing, "404 ") {
			t.Errorf("%s %s: another's is answered\n%s\nand what there is not\n%s", ask[0], ask[1], is, missing)
		}
	}
	for _, path := range []string{"/portal", "/portal/events", "/portal/endpoints/" + mine} {
		if page := fetch("GET", path); !strings.HasPrefix(page, "200 ") || strings.Contains(page, "bob") || strings.Contains(page, others) || strings.Contains(page, theirs) {
			t.Errorf("%s is %s", path, page)
		}
	}
	for _, path := range []string{"/", "/events", "/v1/events", "/v1/endpoints/" + mine} {
		if page := fetch("GET", path); strings.Contains(page, mine) || strings.Contains(page, published) {
			t.Errorf("with the portal's session %s is %.300s", path, page)
		}
	}
	// The browser reports the answers that were to be errors.
	for _, wrong := range outer.Wrong() {
		if !strings.Contains(wrong, "the server responded with a status of 40") {
			t.Error(wrong)
		}
	}
	outer.Open(strings.Replace(shop, "localhost", "127.0.0.1", 1)) // a page that the link does not name
	outer.Until("another page may not frame the portal", func() bool {
		return slices.ContainsFunc(outer.Wrong(), func(s string) bool { return strings.Contains(s, "frame-ancestors") })
	})
}
