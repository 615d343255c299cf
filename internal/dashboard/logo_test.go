package dashboard

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/manage"
)

// picture returns a PNG image.
func picture(t *testing.T, width, height int, c color.Color) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	for i := range width * height {
		img.Set(i%width, i/width, c)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// upload sends the form of the logo's page with a file.
func (w *world) upload(token, name, alt string, image []byte) *httptest.ResponseRecorder {
	w.t.Helper()
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	w.must(form.WriteField("alt", alt))
	part, err := form.CreateFormFile("image", name)
	w.must(err)
	_, err = part.Write(image)
	w.must(err)
	w.must(form.Close())
	return w.ask(http.MethodPost, "/portal-logo", token, nil, func(r *http.Request) {
		sent := httptest.NewRequest(http.MethodPost, "/", &b)
		r.Body, r.ContentLength = sent.Body, sent.ContentLength
		r.Header.Set("Content-Type", form.FormDataContentType())
	})
}

// TestPortalLogo checks that the logo that a form sets is at the head of the portal of its tenant and of no
// other, as an image that a browser may only show, and that what is no such image is refused in words.
func TestPortalLogo(t *testing.T) {
	w := newWorld(t)
	acme, key := w.tenant("acme", kapsel.ScopeWrite)
	other, _ := w.tenant("other", kapsel.ScopeWrite)
	token := w.signIn(key)
	visits := manage.PortalLinkSettings{Mode: kapsel.PortalRead, Sites: []string{"https://shop.example"}}
	mine, _ := w.visit(w.admin, acme.ID, visits)
	theirs, _ := w.visit(w.admin, other.ID, visits)
	if page := mine.see("/portal"); strings.Contains(page, "<img") {
		t.Error("the portal has a logo that nobody set")
	}

	first := picture(t, 40, 20, color.RGBA{200, 0, 0, 255})
	for _, c := range []struct {
		name, alt string
		image     []byte
		said      string
	}{
		{"logo.png", "Acme", []byte(`<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>`), "none of these"},
		{"logo.png", "Acme", nil, "is needed"},
		{"logo.png", "", first, "is needed"},
		{"logo.png", "Acme", first[:20], "2000 pixels"},
		{"logo.png", "Acme", append(bytes.Clone(first), make([]byte, kapsel.MaxPortalLogo)...), "64 KiB"},
		{"logo.png", "Acme", picture(t, 2001, 1, color.Black), "2000 pixels"},
	} {
		rec := w.upload(token, c.name, c.alt, c.image)
		if rec.Code != http.StatusUnprocessableEntity || !strings.Contains(rec.Body.String(), c.said) {
			t.Errorf("%d bytes with the text %q: %d without %q", len(c.image), c.alt, rec.Code, c.said)
		}
	}
	if rec := w.upload(token, "logo.png", "Acme", make([]byte, maxForm)); rec.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("a file larger than any form: %d", rec.Code)
	}

	path := func() string {
		t.Helper()
		page := mine.see("/portal")
		_, rest, _ := strings.Cut(page, `<img class="logo" src="`)
		path, rest, ok := strings.Cut(rest, `"`)
		if !ok || !strings.HasPrefix(rest, ` alt="Zoë’s &#34;shop&#34; &lt;b&gt;"`) {
			t.Fatalf("the portal has no logo: %s", page)
		}
		return path
	}
	if rec := w.upload(token, "logo.svg", `Zoë’s "shop" <b>`, first); rec.Code != http.StatusSeeOther {
		t.Fatalf("the form is answered %d: %s", rec.Code, rec.Body)
	}
	at := path()
	rec := mine.ask(http.MethodGet, at, nil)
	h := rec.Header()
	if rec.Code != http.StatusOK || !bytes.Equal(rec.Body.Bytes(), first) || h.Get("Content-Type") != "image/png" || h.Get("X-Content-Type-Options") != "nosniff" ||
		!strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") || !strings.Contains(h.Get("Content-Security-Policy"), "sandbox") ||
		h.Get("Cross-Origin-Resource-Policy") != "same-origin" || h.Get("Content-Disposition") != `inline; filename="logo.png"` || h.Get("Cache-Control") != "private, max-age=31536000, immutable" {
		t.Errorf("the logo is answered %d, %v", rec.Code, h)
	}
	if rec := theirs.ask(http.MethodGet, at, nil); rec.Code != http.StatusNotFound || strings.Contains(theirs.see("/portal"), "<img") {
		t.Errorf("another tenant's visitor gets %d", rec.Code)
	}
	if rec := w.ask(http.MethodGet, at, "", nil, nil); rec.Code != http.StatusUnauthorized {
		t.Errorf("somebody without a visit gets %d", rec.Code)
	}
	page := w.ask(http.MethodGet, "/portal-logo", token, nil, nil).Body.String()
	if !strings.Contains(page, `src="/portal-logo/`) {
		t.Errorf("the page does not show the logo: %s", page)
	}
	if rec := w.ask(http.MethodGet, "/portal-logo"+strings.TrimPrefix(at, "/portal/logo"), token, nil, nil); rec.Code != http.StatusOK || !bytes.Equal(rec.Body.Bytes(), first) {
		t.Errorf("the dashboard answers %d", rec.Code)
	}

	second := picture(t, 30, 30, color.RGBA{0, 0, 200, 255})
	w.upload(token, "logo.png", `Zoë’s "shop" <b>`, second)
	if now := path(); now == at || !bytes.Equal(mine.ask(http.MethodGet, now, nil).Body.Bytes(), second) {
		t.Error("another image has the same path")
	}
	if rec := mine.ask(http.MethodGet, at, nil); rec.Code != http.StatusNotFound {
		t.Errorf("the former path is answered %d", rec.Code)
	}
	w.upload(token, "", `Zoë’s "shop" <b>`, nil) // the text alone
	if !bytes.Equal(mine.ask(http.MethodGet, path(), nil).Body.Bytes(), second) {
		t.Error("a form without a file changes the image")
	}
	_, reading := w.tenant("readers", kapsel.ScopeRead)
	if rec := w.upload(w.signIn(reading), "logo.png", "x", first); rec.Code != http.StatusForbidden {
		t.Errorf("who may only read sets a logo: %d", rec.Code)
	}
	w.ask(http.MethodPost, "/portal-logo/delete", token, nil, nil)
	if strings.Contains(mine.see("/portal"), "<img") {
		t.Error("the logo is there after it was deleted")
	}
}
