package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// answering runs a command line against a server that answers paths with texts, as they are.
// A path may have a query.
func answering(t *testing.T, answers map[string]string, args ...string) (code int, out, errs string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, at := range []string{r.Method + " " + r.URL.Path, r.Method + " " + r.URL.Path + "?" + r.URL.RawQuery} {
			if text, ok := answers[at]; ok {
				io.WriteString(w, text)
				return
			}
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"code":"E1009","detail":"nothing at `+r.Method+" "+r.URL.RequestURI()+`"}`)
	}))
	defer server.Close()
	t.Setenv("KAPSEL_URL", server.URL)
	t.Setenv("KAPSEL_API_KEY", "kap_x")
	var stdout, stderr bytes.Buffer
	code = run(args, streams{&stdout, &stderr})
	return code, stdout.String(), stderr.String()
}

// TestJSONIsWhatWasAnswered: --json prints the API's own bytes: fields that this program does
// not know, spaces, escapes and the order of members.
func TestJSONIsWhatWasAnswered(t *testing.T) {
	const ep, src, evt = "ep_01m84yz4zqfgjtcypmsesbpznb", "src_01m84yz4zqfgjtcypmsesbpznb", "evt_01m84yz4zqfgjtcypmsesbpznb"
	odd := func(id string) string {
		return `{ "new" : 1.0, "id":"` + id + `",  "name":"<\u00fc>","later":{"b":1,"a":2}}`
	}
	list := func(objects ...string) string {
		return `{"data":[ ` + strings.Join(objects, " , ") + ` ],"next_cursor":null}`
	}
	for _, tt := range []struct {
		args    string
		answers map[string]string
		want    string
	}{
		{"endpoints get " + ep, map[string]string{"GET /v1/endpoints/" + ep: odd(ep)}, odd(ep) + "\n"},
		{"endpoints get " + ep, map[string]string{"GET /v1/endpoints/" + ep: odd(ep) + "\n"}, odd(ep) + "\n"},
		{"endpoints get <ü>", map[string]string{"GET /v1/endpoints/ep_2": odd("ep_2"), "GET /v1/endpoints": list(odd("ep_2"))}, odd("ep_2") + "\n"},
		{"endpoints list", map[string]string{"GET /v1/endpoints": list(odd("ep_3"), odd("ep_2"))}, odd("ep_3") + "\n" + odd("ep_2") + "\n"},
		{"endpoints list --limit 1", map[string]string{"GET /v1/endpoints": list(odd("ep_3"), odd("ep_2"))}, odd("ep_3") + "\n"},
		{"endpoints pause " + ep, map[string]string{"POST /v1/endpoints/" + ep + "/pause": odd(ep)}, odd(ep) + "\n"},
		{"endpoints create --name a --url b", map[string]string{"POST /v1/endpoints": odd(ep)}, odd(ep) + "\n"},
		{"endpoints refusals " + ep, map[string]string{"GET /v1/endpoints/" + ep + "/refusals": odd(ep)}, odd(ep) + "\n"},
		{"sources get shop", map[string]string{"GET /v1/sources/" + src: odd(src), "GET /v1/sources": list(`{"id":"` + src + `","name":"shop"}`)}, odd(src) + "\n"},
		{"sources list", map[string]string{"GET /v1/sources": list(odd("src_3"), odd("src_2"))}, odd("src_3") + "\n" + odd("src_2") + "\n"},
		{"sources create --name a", map[string]string{"POST /v1/sources": odd(src)}, odd(src) + "\n"},
		{"sources update " + src + " --name b", map[string]string{"PATCH /v1/sources/" + src: odd(src)}, odd(src) + "\n"},
		{"events show evt_1", map[string]string{"GET /v1/events/evt_1": odd("evt_1")}, odd("evt_1") + "\n"},
		{"events list --status failed,dead_letter,failed", map[string]string{
			"GET /v1/events?limit=100&status=failed":      list(odd("evt_5"), odd("evt_2")),
			"GET /v1/events?limit=100&status=dead_letter": list(odd("evt_6"), odd("evt_3"), odd("evt_2"), odd("evt_1")),
		}, odd("evt_6") + "\n" + odd("evt_5") + "\n" + odd("evt_3") + "\n" + odd("evt_2") + "\n" + odd("evt_1") + "\n"},
		{"deliveries list --event " + evt, map[string]string{"GET /v1/events/" + evt: `{"id":"` + evt + `","deliveries":[` + odd("dlv_1") + `,` + odd("dlv_2") + `]}`}, odd("dlv_2") + "\n" + odd("dlv_1") + "\n"},
		{"attempts list dlv_1", map[string]string{"GET /v1/deliveries/dlv_1/attempts": list(odd("att_1"), odd("att_2"))}, odd("att_1") + "\n" + odd("att_2") + "\n"},
		{"replays create --since 1h --dry-run", map[string]string{"POST /v1/replays": `{"count": 3,"sample":[ ]}`}, `{"count": 3,"sample":[ ]}` + "\n"},
		{"replays create --since 1h", map[string]string{"POST /v1/replays": odd("rpl_1")}, odd("rpl_1") + "\n"},
		{"keys list --tenant ten_01m84yz4zqfgjtcypmsesbpznb", map[string]string{"GET /v1/tenants/ten_01m84yz4zqfgjtcypmsesbpznb/keys": list(odd("key_1"))}, odd("key_1") + "\n"},
		{"usage", map[string]string{"GET /v1/usage": odd("x")}, odd("x") + "\n"},
		{"providers", map[string]string{"GET /v1/providers": list(odd("a"), odd("b"))}, odd("a") + "\n" + odd("b") + "\n"},
	} {
		code, out, errs := answering(t, tt.answers, append(strings.Fields(tt.args), "--json")...)
		if code != 0 || out != tt.want {
			t.Errorf("kapsel %s: exit %d\n got %s\nwant %s\n%s", tt.args, code, out, tt.want, errs)
		}
	}
}

// TestOneTenant checks that nobody has to name the tenant if there is only one.
func TestOneTenant(t *testing.T) {
	const ten = "ten_01m84yz4zqfgjtcypmsesbpznb"
	usage := map[string]string{"GET /v1/usage": `{"tenant_id":"` + ten + `"}`, "GET /v1/tenants/" + ten: `{"id":"` + ten + `","name":"acme"}`}
	usage["GET /v1/tenants/"+ten+"/keys"] = `{"data":[{"id":"key_1","name":"a"}],"next_cursor":null}`
	// A tenant's key is of one.
	for _, args := range [][]string{{"keys", "list", "-q"}, {"keys", "list", "-q", "--tenant", "acme"}, {"keys", "list", "-q", "--tenant", ten}} {
		if code, out, errs := answering(t, usage, args...); code != 0 || out != "key_1\n" {
			t.Errorf("%q: %d %s %s", args, code, out, errs)
		}
	}
	if code, _, errs := answering(t, usage, "keys", "list", "--tenant", "other"); code != 1 || !strings.Contains(errs, `--tenant: "other" is not the name of the tenant that the key belongs to`) {
		t.Errorf("another's: %d %s", code, errs)
	}
	admin := func(names ...string) map[string]string {
		var all []string
		for i, name := range names {
			all = append(all, `{"id":"`+ten[:len(ten)-1]+string(rune('a'+i))+`","name":"`+name+`"}`)
		}
		return map[string]string{
			"GET /v1/tenants": `{"data":[` + strings.Join(all, ",") + `],"next_cursor":null}`,
			"POST /v1/endpoints?tenant_id=" + ten[:len(ten)-1] + "a": `{"id":"ep_1"}`,
			"POST /v1/replays?tenant_id=" + ten[:len(ten)-1] + "a":   `{"id":"rpl_1"}`,
		}
	}
	for _, tt := range []struct {
		answers map[string]string
		args    string
		code    int
		said    string
	}{
		{admin("acme"), "endpoints create --name a --url b -q", 0, "ep_1"},
		{admin("acme"), "replays create --since 30d -q", 0, "rpl_1"},
		{admin("acme", "other"), "endpoints create --name a --url b -q --tenant acme", 0, "ep_1"},
		{admin("acme", "other"), "endpoints create --name a --url b -q", 2, "--tenant: is needed, as there is more than one: acme, other"},
		{admin("acme", "acme"), "endpoints create --name a --url b -q --tenant acme", 2, `2 tenants have the name "acme"; use an id: ten_`},
		{admin(), "endpoints create --name a --url b -q", 1, "there is no tenant yet"},
	} {
		code, out, errs := answering(t, tt.answers, append(strings.Fields(tt.args), "--api-key", "adm_key")...)
		if code != tt.code || !strings.Contains(out+errs, tt.said) {
			t.Errorf("%s: %d %s %s", tt.args, code, out, errs)
		}
	}
}

// TestRepeatedFlags checks that a flag that takes one value is refused if it is given twice,
// because one value would be lost.
func TestRepeatedFlags(t *testing.T) {
	answers := map[string]string{"GET /v1/events": `{"data":[],"next_cursor":null}`}
	for _, tt := range []struct {
		args, flag string // "": none
	}{
		{"events list --limit 1 --limit 2", "--limit"},
		{"events list --limit=1 --limit=1", "--limit"},
		{"events list -q --quiet", "--quiet"},
		{"events list --since 1h --since 2h", "--since"},
		{"endpoints create --name a --name b --url c", "--name"},
		{"serve --dev --listen 127.0.0.1:0 --listen 127.0.0.1:0", "--listen"},
		{"events list --status failed --status dead_letter --limit 1", ""},
	} {
		code, _, errs := answering(t, answers, strings.Fields(tt.args)...)
		if want := "kapsel: " + tt.flag + ": is given more than once, and takes one value\n"; tt.flag != "" && (code != 2 || errs != want) {
			t.Errorf("%s: %d %s", tt.args, code, errs)
		}
		if tt.flag == "" && code != 0 {
			t.Errorf("%s: %d %s", tt.args, code, errs)
		}
	}
}
