package dashboard

import (
	"encoding/json"
	"strings"

	"github.com/chromedp/chromedp"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// shownPage is a page that the test of pages opens.
type shownPage = struct{ name, path string }

// forms fills the catalogue with what is hostile and returns the pages of forms and of one object.
func (w *world) forms(s *seeded, tenant string) []shownPage {
	w.t.Helper()
	_, err := w.manage.UpdateEventType(w.ctx, w.admin, manage.EventTypeRef{Tenant: s.tenant.ID, Name: "invoice.paid"}, func(c *kapsel.EventTypeConfig) error {
		text, err := json.Marshal(map[string]any{"type": "object", "title": hostile[0], "required": []string{"id"}, "properties": map[string]any{"id": map[string]any{"type": "string", "examples": []string{hostile[1]}}, "amount": map[string]any{"type": "integer", "minimum": 100}}})
		c.Group, c.Schemas = hostile[5], map[string]json.RawMessage{"1": text, "2": json.RawMessage(`{"type":"string","pattern":"^[0-9]{9}$"}`)}
		return err
	})
	w.must(err)
	_, err = w.manage.UpdateSource(w.ctx, w.admin, s.source, func(c *manage.SourceSettings) error {
		c.Intake.Verification.Provider = "stripe"
		c.Secrets = manage.IntakeSecrets{Replace: true, List: []manage.SecretSetting{{Text: secret.NewText("must-never-be-shown")}}}
		return nil
	})
	w.must(err)
	apps, err := w.manage.ListApps(w.ctx, w.admin, s.tenant.ID, store.Page[kapsel.AppID]{Limit: 1})
	w.must(err)
	app, err := w.manage.UpdateApp(w.ctx, w.admin, manage.AppRef{Ref: apps[0].ID.String()}, func(c *manage.AppSettings) error {
		c.Metadata = map[string]string{hostile[0]: strings.Join(hostile[:5], "\n")}
		return nil
	})
	w.must(err)
	_, err = w.manage.UpdateEndpoint(w.ctx, w.admin, s.stranger.ID, manage.EndpointChange{Edit: func(c *manage.EndpointSettings) error {
		c.Config.Subscriptions = []kapsel.Subscription{{Source: s.source.String(), EventTypes: []string{"invoice.*"}}}
		c.Headers.Set = map[string]*secret.Text{"X-Api-Key": new(secret.NewText("must-never-be-shown"))}
		return nil
	}})
	w.must(err)
	return []shownPage{
		{"endpoint-new-stripe", "/endpoints/new" + tenant + "&provider=stripe"},
		{"endpoint-delete", "/endpoints/" + s.stranger.ID.String() + "/delete" + tenant},
		{"source-new", "/sources/new" + tenant + "&provider=asana"},
		{"source-edit", "/sources/" + s.source.String() + "/edit" + tenant},
		{"source-delete", "/sources/" + s.source.String() + "/delete" + tenant},
		{"event-type", "/event-type/invoice.paid" + tenant},
		{"event-type-new", "/event-types/new" + tenant},
		{"event-type-edit", "/event-type/invoice.paid/edit" + tenant},
		{"app", "/apps/" + app.ID.String() + tenant},
		{"app-new", "/apps/new" + tenant},
		{"app-edit", "/apps/" + app.ID.String() + "/edit" + tenant},
		{"providers", "/providers" + tenant},
		{"provider", "/providers/github" + tenant},
		{"provider-asana", "/providers/asana" + tenant},
	}
}

// fillForms checks in the browser that the guide follows the provider that is chosen, and that a form that was
// refused says why beside its fields and keeps what was entered, at both widths.
func (b *browser) fillForms(s *seeded, axe string, keep func(name string)) {
	b.t.Helper()
	b.Look(1280, "light")
	b.open("/endpoints/new?tenant=" + s.tenant.ID.String())
	b.Do(chromedp.Evaluate[chromedp.Void](`(() => { const s = document.getElementById("verification-provider"); s.value = "shopify"; s.dispatchEvent(new Event("change", {bubbles: true})) })()`))
	b.WaitFor(`document.getElementById("guide").textContent.includes("Connect Shopify")`)
	for _, width := range []int64{1280, 390} {
		b.Look(width, map[int64]string{1280: "dark", 390: "light"}[width])
		path := "/endpoints/" + s.stranger.ID.String() + "/edit?tenant=" + s.tenant.ID.String()
		b.open(path)
		b.Do(chromedp.Evaluate[chromedp.Void](`(() => {
			document.querySelectorAll("details").forEach(d => { d.open = true });
			document.getElementById("url").value = "nowhere";
			document.getElementById("timeout").value = "soon";
			document.getElementById("verification-secrets").value = "must-never-be-shown";
			document.querySelector("main form").submit();
		})()`))
		b.WaitFor(`document.querySelector("main [role=alert]") !== null`)
		for _, field := range []string{"url", "timeout"} {
			b.WaitFor(`document.getElementById("` + field + `-wrong") !== null && document.getElementById("` + field + `").getAttribute("aria-invalid") === "true"`)
		}
		b.WaitFor(`document.getElementById("timeout").value === "soon" && document.getElementById("verification-secrets").value === ""`)
		b.Do(chromedp.Evaluate[chromedp.Void](`document.querySelectorAll("details").forEach(d => { d.open = true })`))
		b.accessible(axe, "a form that was refused")
		keep("endpoint-refused-" + map[int64]string{1280: "1280-dark", 390: "390-light"}[width])
		for _, wrong := range b.Wrong() {
			if !strings.Contains(wrong, "422") { // the browser's own word on the answer
				b.t.Errorf("a form that was refused: %s", wrong)
			}
		}
	}
}
