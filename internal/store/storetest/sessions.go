package storetest

import (
	"crypto/sha256"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// session makes a session of a key of an owner and returns it.
func (w *world) session(owner kapsel.TenantID, key kapsel.KeyID) kapsel.Session {
	w.t.Helper()
	s := kapsel.Session{
		ID: kapsel.NewSessionID(w.now), TenantID: owner, KeyID: key, KeyHash: sha256.Sum256(key[:]),
		Address: "192.0.2.1", Agent: "browser/1 é", CreatedAt: w.now, SeenAt: w.now,
	}
	s.Hash = sha256.Sum256(s.ID[:])
	w.must(w.store.CreateSession(w.ctx, s))
	return s
}

// person makes a session of a person of an owner who signs in without a key, and returns it.
func (w *world) person(owner kapsel.TenantID, subject string) kapsel.Session {
	w.t.Helper()
	s := kapsel.Session{
		ID: kapsel.NewSessionID(w.now), TenantID: owner, KeyHash: sha256.Sum256([]byte("settings")), Subject: subject, Name: "Zoë <zoe@example.com>",
		Address: "192.0.2.1", Agent: "browser/1", CreatedAt: w.now, SeenAt: w.now,
	}
	if !owner.IsZero() {
		s.Scope = kapsel.ScopeWrite
	}
	s.Hash = sha256.Sum256(s.ID[:])
	w.must(w.store.CreateSession(w.ctx, s))
	return s
}

// sessions lists the sessions of an owner.
func (w *world) sessions(owner kapsel.TenantID) []kapsel.Session {
	w.t.Helper()
	all, err := w.store.ListSessions(w.ctx, owner, w.now, store.Page[kapsel.SessionID]{Limit: 10})
	w.must(err)
	return all
}

// signedIn are the promises of Sessions.
var signedIn = []promise{
	{"S-11 of a key's sessions, and of a person's, the newest stay and the oldest end", func(w *world) {
		key := kapsel.NewKeyID(w.now)
		other, person := w.session(w.tenant.ID, kapsel.NewKeyID(w.now)), w.person(w.tenant.ID, "somebody")
		var all []kapsel.Session
		for range store.MaxSessions + 2 {
			w.pass(time.Millisecond)
			all = append(all, w.session(w.tenant.ID, key))
		}
		for i, s := range append(all, other, person) {
			_, err := w.store.SessionByHash(w.ctx, s.Hash, w.now)
			if i < 2 {
				w.refused(err, kapsel.NotFound, "one of the oldest")
			} else {
				w.must(err)
			}
		}
	}},

	{"S-11 a session is found by its hash until it is idle for too long, or too old", func(w *world) {
		key := kapsel.NewKeyID(w.now)
		s := w.session(w.tenant.ID, key)
		w.must(w.store.CreateSession(w.ctx, s)) // again
		begin := s.CreatedAt
		found := func() error {
			w.t.Helper()
			there, err := w.store.SessionByHash(w.ctx, s.Hash, w.now)
			if err == nil {
				w.same("found", s, there)
			}
			return err
		}
		w.must(found())
		_, err := w.store.SessionByHash(w.ctx, sha256.Sum256(nil), w.now)
		w.refused(err, kapsel.NotFound, "another hash")
		w.now = begin.Add(kapsel.SessionIdle - time.Microsecond)
		w.must(found())
		w.now = begin.Add(kapsel.SessionIdle)
		w.refused(found(), kapsel.NotFound, "idle")
		w.same("listed when idle", 0, len(w.sessions(w.tenant.ID)))

		s.SeenAt = begin.Add(kapsel.SessionIdle - time.Minute)
		w.must(w.store.TouchSession(w.ctx, s.ID, s.SeenAt))
		w.must(w.store.TouchSession(w.ctx, s.ID, begin)) // an earlier time changes nothing
		w.must(found())
		s.SeenAt = begin.Add(kapsel.SessionLife - time.Minute)
		w.must(w.store.TouchSession(w.ctx, s.ID, s.SeenAt))
		w.now = begin.Add(kapsel.SessionLife - time.Microsecond)
		w.must(found())
		w.now = begin.Add(kapsel.SessionLife)
		w.refused(found(), kapsel.NotFound, "too old")
	}},

	{"S-11 sessions are listed by their owner and end alone, by their key, and by their time", func(w *world) {
		mine, others := kapsel.NewKeyID(w.now), kapsel.NewKeyID(w.now)
		admin := w.session(kapsel.TenantID{}, kapsel.KeyID{})
		w.pass(time.Minute)
		first := w.session(w.tenant.ID, mine)
		w.pass(time.Minute)
		second := w.session(w.tenant.ID, mine)
		w.pass(time.Minute)
		third := w.session(w.tenant.ID, others)
		w.same("the tenant's", []kapsel.Session{third, second, first}, w.sessions(w.tenant.ID))
		w.same("all", []kapsel.Session{third, second, first, admin}, w.sessions(kapsel.TenantID{}))
		page, err := w.store.ListSessions(w.ctx, w.tenant.ID, w.now, store.Page[kapsel.SessionID]{Before: third.ID, Limit: 1})
		w.must(err)
		w.same("a page", []kapsel.Session{second}, page)

		w.refused(w.store.DeleteSession(w.ctx, kapsel.NewTenantID(w.now), second.ID), kapsel.NotFound, "another's")
		w.refused(w.store.DeleteSession(w.ctx, w.tenant.ID, admin.ID), kapsel.NotFound, "the admin's by a tenant")
		w.must(w.store.DeleteSession(w.ctx, w.tenant.ID, second.ID))
		w.refused(w.store.DeleteSession(w.ctx, w.tenant.ID, second.ID), kapsel.NotFound, "one that has ended")
		_, err = w.store.SessionByHash(w.ctx, second.Hash, w.now)
		w.refused(err, kapsel.NotFound, "found after the end")
		w.must(w.store.DeleteSessions(w.ctx, w.tenant.ID, mine))
		w.same("without the key's", []kapsel.Session{third, admin}, w.sessions(kapsel.TenantID{}))
		w.must(w.store.DeleteSessions(w.ctx, kapsel.TenantID{}, kapsel.KeyID{}))
		w.same("without the admin's", []kapsel.Session{third}, w.sessions(kapsel.TenantID{}))

		w.now = third.ExpiresAt()
		for _, want := range []int{1, 0} {
			n, err := w.store.DeleteExpiredSessions(w.ctx, w.now, 10)
			w.must(err)
			w.same("deleted", want, n)
		}
	}},

	{"S-11 sessions of people end by the person, whatever they may see, and sessions of keys stay", func(w *world) {
		admin := w.session(kapsel.TenantID{}, kapsel.KeyID{})
		w.pass(time.Minute)
		ann := w.person(kapsel.TenantID{}, "sub-ann")
		w.pass(time.Minute)
		bob := w.person(w.tenant.ID, "sub-bob")
		w.pass(time.Minute)
		moved := w.person(w.tenant.ID, "sub-ann")
		w.same("all", []kapsel.Session{moved, bob, ann, admin}, w.sessions(kapsel.TenantID{}))
		found, err := w.store.SessionByHash(w.ctx, bob.Hash, w.now)
		w.must(err)
		w.same("found", bob, found)

		w.must(w.store.DeleteSessions(w.ctx, kapsel.TenantID{}, kapsel.KeyID{}))
		w.must(w.store.DeleteSessions(w.ctx, w.tenant.ID, kapsel.KeyID{}))
		w.same("without the admin key's", []kapsel.Session{moved, bob, ann}, w.sessions(kapsel.TenantID{}))
		key := w.session(w.tenant.ID, kapsel.NewKeyID(w.now))
		w.must(w.store.DeleteSessionsOf(w.ctx, ""))
		w.must(w.store.DeleteSessionsOf(w.ctx, "sub-ann"))
		w.same("without Ann's", []kapsel.Session{key, bob}, w.sessions(kapsel.TenantID{}))
	}},

	{"S-11 a session ends with its tenant, and none is made without one", func(w *world) {
		other := w.newTenant()
		s, mine := w.person(other.ID, "sub-ann"), w.person(w.tenant.ID, "sub-ann")
		w.must(w.store.DeleteTenant(w.ctx, other.ID, w.now))
		_, err := w.store.SessionByHash(w.ctx, s.Hash, w.now)
		w.refused(err, kapsel.NotFound, "of a deleted tenant")
		_, err = w.store.SessionByHash(w.ctx, mine.Hash, w.now)
		w.must(err)
		for _, tenant := range []kapsel.TenantID{other.ID, kapsel.NewTenantID(w.now)} {
			s.ID, s.TenantID = kapsel.NewSessionID(w.now), tenant
			s.Hash = sha256.Sum256(s.ID[:])
			w.refused(w.store.CreateSession(w.ctx, s), kapsel.NotFound, "made for no tenant")
		}
	}},
}
