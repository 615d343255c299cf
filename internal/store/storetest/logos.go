package storetest

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// logoOf returns a logo of a tenant that is not stored yet.
func (w *world) logoOf(tenant kapsel.TenantID, image string) kapsel.PortalLogo {
	return kapsel.PortalLogo{
		TenantID: tenant, Type: "image/png", Image: []byte(image), Size: len(image), Hash: sha256.Sum256([]byte(image)), Alt: "Zoë’s shop", UpdatedAt: w.now,
	}
}

// logos are the promises of PortalLogos.
var logos = []promise{
	{"a tenant has one logo, whose bytes come back as they were", func(w *world) {
		read := func() (kapsel.PortalLogo, kapsel.PortalLogo) {
			w.t.Helper()
			whole, err := w.store.PortalLogo(w.ctx, w.tenant.ID)
			w.must(err)
			head, err := w.store.PortalLogoHead(w.ctx, w.tenant.ID)
			w.must(err)
			return whole, head
		}
		_, err := w.store.PortalLogo(w.ctx, w.tenant.ID)
		w.refused(err, kapsel.NotFound, "none")
		_, err = w.store.PortalLogoHead(w.ctx, w.tenant.ID)
		w.refused(err, kapsel.NotFound, "the head of none")
		first := w.logoOf(w.tenant.ID, strings.Repeat("\x00\xff\x89PNG", kapsel.MaxPortalLogo/6))
		w.must(w.store.SetPortalLogo(w.ctx, first))
		other := w.newTenant()
		_, err = w.store.PortalLogo(w.ctx, other.ID)
		w.refused(err, kapsel.NotFound, "another tenant's")
		theirs := w.logoOf(other.ID, "theirs")
		w.must(w.store.SetPortalLogo(w.ctx, theirs))
		whole, head := read()
		w.same("as it was set", first, whole)
		first.Image = nil
		w.same("its head", first, head)

		w.pass(time.Minute)
		second := w.logoOf(w.tenant.ID, "second")
		second.Type, second.Alt = "image/webp", "Acme"
		w.must(w.store.SetPortalLogo(w.ctx, second))
		whole, _ = read()
		w.same("as it was set anew", second, whole)
		w.must(w.store.DeletePortalLogo(w.ctx, w.tenant.ID))
		_, err = w.store.PortalLogo(w.ctx, w.tenant.ID)
		w.refused(err, kapsel.NotFound, "deleted")
		w.refused(w.store.DeletePortalLogo(w.ctx, w.tenant.ID), kapsel.NotFound, "deleted again")
		whole, err = w.store.PortalLogo(w.ctx, other.ID)
		w.must(err)
		w.same("the other tenant's stays", theirs, whole)
	}},

	{"a logo ends with its tenant, and none is set on a tenant that is not there", func(w *world) {
		w.refused(w.store.SetPortalLogo(w.ctx, w.logoOf(kapsel.NewTenantID(w.now), "x")), kapsel.NotFound, "of no tenant")
		gone := w.newTenant()
		w.must(w.store.SetPortalLogo(w.ctx, w.logoOf(gone.ID, "x")))
		w.must(w.store.DeleteTenant(w.ctx, gone.ID, w.now))
		_, err := w.store.PortalLogo(w.ctx, gone.ID)
		w.refused(err, kapsel.NotFound, "after its tenant")
		w.refused(w.store.SetPortalLogo(w.ctx, w.logoOf(gone.ID, "x")), kapsel.NotFound, "of a deleted tenant")
	}},

	{"what an author does to a logo leaves rows without the image", func(w *world) {
		l := w.logoOf(w.tenant.ID, "first")
		id := w.tenant.ID
		state := func(l *kapsel.PortalLogo) string {
			hash := strings.ReplaceAll(fmt.Sprint(l.Hash), " ", ",")
			return fmt.Sprintf(`{"alt":%q,"sha256":%s,"size":%d}`, l.Alt, hash, l.Size)
		}
		set := func(s store.Store) error { return s.SetPortalLogo(w.ctx, l) }
		w.left("update", set, fmt.Sprintf("portal_logo %s update  %s", id, state(&l)))
		w.left("update", set) // the same again
		l.Alt = "Acme"
		w.left("update", set, fmt.Sprintf(`portal_logo %s update {"alt":"Zoë’s shop"} {"alt":"Acme"}`, id))
		w.left("delete", func(s store.Store) error { return s.DeletePortalLogo(w.ctx, id) }, fmt.Sprintf("portal_logo %s delete %s ", id, state(&l)))
	}},
}
