package settings_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// oneKey is a directory that has one key. asked counts the look-ups; during, unless nil, runs
// after a look-up has read the key and before it returns.
type oneKey struct {
	store.Directory
	key    kapsel.Key
	asked  int
	during func()
}

func (d *oneKey) KeyByHash(_ context.Context, hash [32]byte) (kapsel.Key, error) {
	d.asked++
	found := d.key
	if d.during != nil {
		d.during()
	}
	if hash != found.Hash {
		return kapsel.Key{}, store.NotFound("key")
	}
	return found, nil
}

func (d *oneKey) TouchKeys(_ context.Context, used map[kapsel.KeyID]time.Time) error {
	d.key.LastUsedAt = used[d.key.ID]
	return nil
}

// TestKeys checks that a key is asked for once, that its revocation counts from the change on,
// also for a look-up that was under way, and that a key which is not there is asked for each time.
func TestKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		d := &oneKey{key: kapsel.Key{ID: kapsel.NewKeyID(now), Hash: [32]byte{1}}}
		keys := settings.NewKeys(d)
		find := func(asked int, revoked bool) kapsel.Key {
			t.Helper()
			key, err := keys.KeyByHash(t.Context(), d.key.Hash)
			if err != nil || key.ID != d.key.ID || key.RevokedAt.IsZero() == revoked || d.asked != asked {
				t.Fatalf("%+v, %v, after %d look-ups; want revoked = %v after %d", key, err, d.asked, revoked, asked)
			}
			return key
		}
		revoke := func() {
			d.key.RevokedAt = now
			keys.Changed(store.Settings{Keys: []kapsel.Key{d.key}})
		}
		find(1, false)
		find(1, false)
		at := now.Add(time.Minute)
		if err := keys.TouchKeys(t.Context(), map[kapsel.KeyID]time.Time{d.key.ID: at}); err != nil {
			t.Fatal(err)
		}
		if key := find(1, false); !key.LastUsedAt.Equal(at) {
			t.Errorf("last used at %v, want %v", key.LastUsedAt, at)
		}
		revoke()
		find(2, true)

		d.key.RevokedAt = time.Time{}
		keys = settings.NewKeys(d)
		d.during = func() { d.during = nil; revoke() }
		find(3, true) // read before the revocation
		find(4, true)

		for range 2 {
			if _, err := keys.KeyByHash(t.Context(), [32]byte{2}); kapsel.CodeOf(err) != kapsel.NotFound {
				t.Errorf("a key that is not there: %v", err)
			}
		}
		if d.asked != 6 {
			t.Errorf("%d look-ups, want one for each request with a key that is not there", d.asked)
		}
	})
}
