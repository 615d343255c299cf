package storetest

import (
	"crypto/sha256"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// portalLink makes a link of a tenant that lives for an hour and returns it.
func (w *world) portalLink(tenant kapsel.TenantID, change ...func(*kapsel.PortalLink)) kapsel.PortalLink {
	w.t.Helper()
	l := kapsel.PortalLink{
		ID: kapsel.NewPortalLinkID(w.now), TenantID: tenant, Mode: kapsel.PortalRead, Sites: []string{"https://app.example"},
		KeyID: kapsel.NewKeyID(w.now), KeyHash: sha256.Sum256([]byte("key")), CreatedAt: w.now, ExpiresAt: w.now.Add(time.Hour),
	}
	l.Token = sha256.Sum256(l.ID[:])
	for _, c := range change {
		c(&l)
	}
	w.must(w.store.CreatePortalLink(w.ctx, l))
	return l
}

// portals are the promises of PortalLinks.
var portals = []promise{
	{"a portal link is used once, and its session finds it until it ends", func(w *world) {
		l := w.portalLink(w.tenant.ID, func(l *kapsel.PortalLink) { l.AppID, l.Mode = w.newApp("").ID, kapsel.PortalManage })
		w.refused(w.store.CreatePortalLink(w.ctx, l), kapsel.Conflict, "the id again")
		there, err := w.store.PortalLink(w.ctx, w.tenant.ID, l.ID)
		w.must(err)
		w.same("as it was made", l, there)
		_, err = w.store.PortalLink(w.ctx, kapsel.NewTenantID(w.now), l.ID)
		w.refused(err, kapsel.NotFound, "another tenant's")

		first, second := sha256.Sum256([]byte("first")), sha256.Sum256([]byte("second"))
		_, err = w.store.PortalBySession(w.ctx, first, w.now)
		w.refused(err, kapsel.NotFound, "before it is used")
		w.pass(time.Minute)
		_, err = w.store.OpenPortal(w.ctx, first, first, w.now)
		w.refused(err, kapsel.NotFound, "by another token")
		opened := make(chan kapsel.PortalLink, 4)
		w.together(4, func(i int) error {
			got, err := w.store.OpenPortal(w.ctx, l.Token, sha256.Sum256([]byte{byte(i)}), w.now)
			if kapsel.CodeOf(err) == kapsel.NotFound {
				return nil
			}
			opened <- got
			return err
		})
		w.same("opened", 1, len(opened))
		got := <-opened
		l.Session, l.UsedAt = got.Session, w.now
		w.same("as it was used", l, got)
		_, err = w.store.OpenPortal(w.ctx, l.Token, second, w.now)
		w.refused(err, kapsel.NotFound, "used again")
		there, err = w.store.PortalBySession(w.ctx, l.Session, w.now)
		w.must(err)
		w.same("by its session", l, there)
		w.now = l.ExpiresAt
		_, err = w.store.PortalBySession(w.ctx, l.Session, w.now)
		w.refused(err, kapsel.NotFound, "expired")
	}},

	{"a portal link that is revoked or has expired opens nothing", func(w *world) {
		used, unused := w.portalLink(w.tenant.ID), w.portalLink(w.tenant.ID)
		session := sha256.Sum256([]byte("session"))
		_, err := w.store.OpenPortal(w.ctx, used.Token, session, w.now)
		w.must(err)
		w.refused(w.store.RevokePortalLink(w.ctx, kapsel.NewTenantID(w.now), used.ID, w.now), kapsel.NotFound, "another tenant's")
		for range 2 {
			w.must(w.store.RevokePortalLink(w.ctx, w.tenant.ID, used.ID, w.now))
			w.must(w.store.RevokePortalLink(w.ctx, kapsel.TenantID{}, unused.ID, w.now))
			w.pass(time.Second)
		}
		_, err = w.store.PortalBySession(w.ctx, session, w.now)
		w.refused(err, kapsel.NotFound, "the session of a revoked link")
		_, err = w.store.OpenPortal(w.ctx, unused.Token, session, w.now)
		w.refused(err, kapsel.NotFound, "a revoked link")
		there, err := w.store.PortalLink(w.ctx, w.tenant.ID, used.ID)
		w.must(err)
		w.same("revoked at first", used.CreatedAt, there.RevokedAt)

		old := w.portalLink(w.tenant.ID)
		w.now = old.ExpiresAt
		_, err = w.store.OpenPortal(w.ctx, old.Token, sha256.Sum256([]byte("late")), w.now)
		w.refused(err, kapsel.NotFound, "an expired link")
	}},

	{"a portal link and its session end with its app and with its tenant", func(w *world) {
		app, gone := w.newApp(""), w.newTenant()
		ofApp := func(l *kapsel.PortalLink) { l.AppID = app.ID }
		used := []kapsel.PortalLink{w.portalLink(w.tenant.ID, ofApp), w.portalLink(gone.ID)}
		unused := []kapsel.PortalLink{w.portalLink(w.tenant.ID, ofApp), w.portalLink(gone.ID)}
		stays := w.portalLink(w.tenant.ID)
		session := func(l kapsel.PortalLink) [32]byte { return sha256.Sum256(l.Token[:]) }
		for _, l := range append(used, stays) {
			_, err := w.store.OpenPortal(w.ctx, l.Token, session(l), w.now)
			w.must(err)
		}
		w.must(w.store.DeleteApp(w.ctx, w.tenant.ID, app.ID, w.now))
		w.must(w.store.DeleteTenant(w.ctx, gone.ID, w.now))
		for i, of := range []string{"the app", "the tenant"} {
			_, err := w.store.PortalBySession(w.ctx, session(used[i]), w.now)
			w.refused(err, kapsel.NotFound, "the session, without "+of)
			_, err = w.store.OpenPortal(w.ctx, unused[i].Token, session(unused[i]), w.now)
			w.refused(err, kapsel.NotFound, "the link, without "+of)
		}
		_, err := w.store.PortalBySession(w.ctx, session(stays), w.now)
		w.must(err)
	}},

	{"portal links are listed by their tenant and deleted once they have expired", func(w *world) {
		first := w.portalLink(w.tenant.ID)
		w.pass(time.Minute)
		other := w.portalLink(w.newTenant().ID)
		w.pass(time.Minute)
		second := w.portalLink(w.tenant.ID, func(l *kapsel.PortalLink) { l.KeyID, l.KeyHash, l.Sites = kapsel.KeyID{}, [32]byte{}, nil })
		list := func(tenant kapsel.TenantID, p store.Page[kapsel.PortalLinkID]) (ids []kapsel.PortalLinkID) {
			all, err := w.store.ListPortalLinks(w.ctx, tenant, p)
			w.must(err)
			for _, l := range all {
				ids = append(ids, l.ID)
			}
			return ids
		}
		w.same("the tenant's", []kapsel.PortalLinkID{second.ID, first.ID}, list(w.tenant.ID, store.Page[kapsel.PortalLinkID]{Limit: 10}))
		w.same("all", []kapsel.PortalLinkID{second.ID, other.ID, first.ID}, list(kapsel.TenantID{}, store.Page[kapsel.PortalLinkID]{Limit: 10}))
		w.same("a page", []kapsel.PortalLinkID{first.ID}, list(w.tenant.ID, store.Page[kapsel.PortalLinkID]{Before: second.ID, Limit: 1}))
		w.now = other.ExpiresAt
		for _, want := range []int{2, 0} {
			n, err := w.store.DeleteExpiredPortalLinks(w.ctx, w.now, 10)
			w.must(err)
			w.same("deleted", want, n)
		}
		w.same("left", []kapsel.PortalLinkID{second.ID}, list(kapsel.TenantID{}, store.Page[kapsel.PortalLinkID]{Limit: 10}))
	}},
}
