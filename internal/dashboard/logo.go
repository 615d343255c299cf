package dashboard

import (
	"encoding/hex"
	"io"
	"net/http"
	"strings"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
)

// logoPages registers the page on which the logo of a tenant's portal is set.
func (d *Dashboard) logoPages() {
	d.get("/portal-logo", access.Read, func(p *page) (result, error) {
		l, err := p.logo()
		if err != nil {
			return result{}, err
		}
		return p.showLogo(&l, l.Alt, nil)
	})
	d.post("/portal-logo", access.Write, (*page).setLogo)
	d.post("/portal-logo/delete", access.Write, func(p *page) (result, error) {
		return result{goTo: string(p.link("/portal-logo"))}, d.Manage.DeletePortalLogo(p.ctx, p.caller, p.tenant)
	})
	d.mux.HandleFunc("GET /portal-logo/{hash}", func(w http.ResponseWriter, r *http.Request) {
		p, err := d.open(w, r, access.Read)
		if err == access.ErrSignedOut {
			toSignIn(w, r)
			return
		}
		if err == nil {
			var l kapsel.PortalLogo
			if l, err = p.logo(); err == nil && serveLogo(w, r, &l) {
				return
			}
		}
		if err == nil {
			err = errNoPage
		}
		d.fail(w, r, p, err)
	})
}

// logo returns the logo of the tenant that is shown, the zero one if there is none.
func (p *page) logo() (kapsel.PortalLogo, error) {
	if p.tenant.IsZero() {
		return kapsel.PortalLogo{}, nil
	}
	l, err := p.d.Manage.PortalLogo(p.ctx, p.caller, p.tenant)
	if kapsel.CodeOf(err) == kapsel.NotFound {
		err = nil
	}
	return l, err
}

// setLogo stores what the form sent; without a file the image stays as it is.
func (p *page) setLogo() (result, error) {
	was, err := p.logo()
	if err != nil {
		return result{}, err
	}
	alt, image := strings.TrimSpace(p.form.Get("alt")), was.Image
	if sent := p.files["image"]; len(sent) == 1 && sent[0].Size > 0 {
		f, err := sent[0].Open()
		if err == nil {
			image, err = io.ReadAll(f)
			f.Close()
		}
		if err != nil {
			return result{}, errForm
		}
	}
	_, err = p.d.Manage.SetPortalLogo(p.ctx, p.caller, p.tenant, image, alt)
	if wrong, ok := wrongFields(err); ok {
		res, err := p.showLogo(&was, alt, wrong)
		res.status = http.StatusUnprocessableEntity
		return res, err
	}
	return result{goTo: string(p.link("/portal-logo"))}, err
}

func (p *page) showLogo(l *kapsel.PortalLogo, alt string, wrong []kapsel.FieldError) (result, error) {
	return p.show("/apps", "The portal’s logo", logoPage(p, l, alt, wrong))
}

// logoHash returns the part of a logo's path that changes with its image, so that browsers may keep it.
func logoHash(l *kapsel.PortalLogo) string { return hex.EncodeToString(l.Hash[:]) }

// serveLogo answers with a logo, and reports whether the path names that one. The image is what somebody
// uploaded, so a browser may do nothing with it but show it.
func serveLogo(w http.ResponseWriter, r *http.Request, l *kapsel.PortalLogo) bool {
	if len(l.Image) == 0 || r.PathValue("hash") != logoHash(l) {
		return false
	}
	h := w.Header()
	h.Set("Content-Type", l.Type)
	h.Set("Content-Disposition", `inline; filename="logo.`+strings.TrimPrefix(l.Type, "image/")+`"`)
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox")
	h.Set("Cache-Control", "private, max-age=31536000, immutable")
	if r.Method != http.MethodHead {
		_, _ = w.Write(l.Image) // who has gone away misses nothing
	}
	return true
}

// portalLogo answers with the logo at the head of a visitor's pages.
func (d *Dashboard) portalLogo(w http.ResponseWriter, r *http.Request) {
	link, c, err := d.visitor(r)
	frame(w, link.Sites)
	if err == nil {
		var l kapsel.PortalLogo
		if l, err = d.Manage.Portal(c, link).LogoImage(r.Context()); err == nil && serveLogo(w, r, &l) {
			return
		}
	}
	if err == nil || kapsel.CodeOf(err) == kapsel.NotFound {
		err = errNoPage
	}
	d.failVisit(w, r, &visit{d: d, query: r.URL.Query()}, err)
}

// logoField returns what the page calls a field of a logo.
func logoField(name string) string {
	return map[string]string{"image_base64": "The image", "alt": "The text"}[name]
}
