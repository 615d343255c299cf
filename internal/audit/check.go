package audit

import (
	"context"
	"fmt"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/receipt"
)

// Finding is a place at which a log, or the store beside it, does not fit.
type Finding struct {
	Log   kapsel.LogID // zero: in no log
	Index int64        // of the first leaf that is concerned; -1: of none
	Tree  bool         // the log contradicts itself, so that no further head may be signed
	Text  string
}

func (f Finding) String() string {
	switch {
	case f.Log == kapsel.LogID{}:
		return f.Text
	case f.Index < 0:
		return fmt.Sprintf("log %s: %s", f.Log, f.Text)
	}
	return fmt.Sprintf("log %s, leaf %d: %s", f.Log, f.Index, f.Text)
}

// Checked says what a check has looked at.
type Checked struct {
	Logs, Heads, Leaves int64
	Dropped             int64 // logs whose tenant was deleted, and whose time is over
	Deleted             int64 // leaves whose text is gone as it may be, so that only their hash was checked
	Erased              int64 // of these, those of erased events whose time is not over
	Older               int64 // attempts that are older than the log
}

// Checker compares logs with themselves and with the store. It only reads.
type Checker struct {
	Store store.Journal
	Keys  *Keys // whose public keys alone are used
	// Kept reports whether retention may not yet have deleted an attempt of a tenant that ended then.
	Kept func(tenant kapsel.TenantID, ended time.Time) bool
	// Over reports whether a log may have been dropped: its tenant was deleted, and its time is over.
	Over func(owner *kapsel.Tenant) bool
	// Found is called with each finding.
	Found func(Finding)
	// Faults has the fault of each log when it was read for its check.
	Faults map[kapsel.LogID]string

	checked Checked
	texts   texts
	seen    map[kapsel.LogID]int64 // how many leaves of each log were checked
}

// pageOfLeaves is how many leaves, or attempts, are read at once.
const pageOfLeaves = 1000

// Check looks at all logs and all attempts. Of each log it checks, first, that the tiles and the heads
// are those of the leaves' hashes; then, where the text of a leaf is kept, that the hash is the text's;
// then, where the attempt is kept, too, that the text says what the attempt's row says. At last it
// looks for texts that are gone without an erasure that names them, and for attempts without a leaf that
// cannot become one. The server may run meanwhile.
func (c *Checker) Check(ctx context.Context) (Checked, error) {
	c.checked, c.texts, c.seen = Checked{}, texts{}, map[kapsel.LogID]int64{}
	keys, err := c.Keys.All(ctx)
	if err != nil {
		return c.checked, err
	}
	for after := (kapsel.LogID{}); ; {
		logs, err := c.Store.Logs(ctx, after, headsAtOnce)
		if err != nil {
			return c.checked, err
		}
		for i := range logs {
			after = logs[i].ID
			if l := &logs[i]; !l.DroppedAt.IsZero() {
				c.checked.Dropped++
				owner, err := c.Store.OwnerOf(ctx, l.ID)
				if err != nil {
					return c.checked, err
				}
				if !c.Over(&owner) {
					c.Found(Finding{l.ID, -1, false, "the log was dropped, although its tenant is not deleted, or its time is not over"})
				}
				continue
			}
			if err := c.log(ctx, &logs[i], keys); err != nil {
				return c.checked, err
			}
		}
		if len(logs) < headsAtOnce {
			break
		}
	}
	// An erasure is in the outbox and then a leaf, so it is looked for in this order.
	if err := c.outbox(ctx); err != nil {
		return c.checked, err
	}
	if err := c.missingTexts(ctx); err != nil {
		return c.checked, err
	}
	for after := (kapsel.AttemptID{}); ; {
		strays, older, next, err := c.Store.Strays(ctx, after, pageOfLeaves)
		if err != nil {
			return c.checked, err
		}
		c.checked.Older += int64(older)
		for _, id := range strays {
			c.Found(Finding{Index: -1, Text: fmt.Sprintf("attempt %s is no leaf, and not on its way to one", id)})
		}
		if next.IsZero() {
			return c.checked, nil
		}
		after = next
	}
}

// outbox looks for entries that cannot become leaves: nobody can read them, or they are not what Kapsel wrote.
func (c *Checker) outbox(ctx context.Context) error {
	leaves := map[kapsel.AttemptID]bool{} // attempts with an entry that were leaves when they were looked for
	for after := (store.EntryKey{}); ; {
		entries, next, err := c.Store.Entries(ctx, after, pageOfLeaves, nil)
		if err != nil {
			return err
		}
		of := map[kapsel.TenantID][]kapsel.AttemptID{}
		var ids []kapsel.AttemptID
		for i := range entries {
			e := &entries[i]
			if erasure, ok := store.ReadErasure(e.Record); ok {
				c.texts.erased(e.TenantID, erasure.Attempts)
			}
			if _, _, _, err := leafOf(e, nil); err != nil {
				c.Found(Finding{Index: -1, Text: fmt.Sprintf("attempt %s cannot become a leaf, because its entry in the outbox cannot be read: %v", e.AttemptID, err)})
				continue
			}
			of[e.TenantID], ids = append(of[e.TenantID], e.AttemptID), append(ids, e.AttemptID)
		}
		recorded, err := c.Store.Recorded(ctx, ids)
		if err != nil {
			return err
		}
		for tenant, some := range of {
			places, err := c.Store.LeafIndexes(ctx, tenant, some)
			if err != nil {
				return err
			}
			for _, id := range some {
				if a, ok := recorded[id]; ok && a.TenantID != tenant {
					c.Found(Finding{Index: -1, Text: fmt.Sprintf("the entry of attempt %s in the outbox names the tenant %s, and the attempt is of %s", id, tenant, a.TenantID)})
				}
				if _, isLeaf := places[id]; isLeaf {
					leaves[id] = true
				}
			}
		}
		if next == (store.EntryKey{}) {
			break
		}
		after = next
	}
	// An entry goes when its attempt becomes a leaf, in one transaction, so those that are still there were not
	// written by Kapsel.
	for after := (store.EntryKey{}); len(leaves) > 0; {
		entries, next, err := c.Store.Entries(ctx, after, pageOfLeaves, nil)
		if err != nil {
			return err
		}
		for i := range entries {
			if id := entries[i].AttemptID; leaves[id] {
				c.Found(Finding{Index: -1, Text: fmt.Sprintf("attempt %s has an entry in the outbox, and is a leaf already", id)})
				delete(leaves, id)
			}
		}
		if next == (store.EntryKey{}) {
			break
		}
		after = next
	}
	return nil
}

// logCheck is the check of one log.
type logCheck struct {
	*Checker
	ctx  context.Context
	log  *store.Log
	tree Tree
	was  store.State // of the leaves so far
	bad  bool        // a finding of the tree was made: the rest of the tree follows from it

	tile  []byte // of level 0, that was looked at last
	tileN int64
}

// log checks a log as far as it has come now.
func (c *Checker) log(ctx context.Context, l *store.Log, keys []Key) error {
	c.checked.Logs++
	if c.Faults == nil {
		c.Faults = map[kapsel.LogID]string{}
	}
	c.Faults[l.ID] = l.Fault
	k := &logCheck{Checker: c, ctx: ctx, log: l, tree: Tree{l.ID, c.Store}, was: store.State{Root: rootOf(nil)}}
	heads, err := k.heads()
	if err != nil {
		return err
	}
	for k.was.Size < l.Size && !k.bad {
		leaves, err := c.Store.Leaves(ctx, l.ID, k.was.Size, int(min(pageOfLeaves, l.Size-k.was.Size)))
		if err != nil {
			return err
		}
		if len(leaves) == 0 {
			k.broken(k.was.Size, "the leaf is missing, and all behind it")
			break
		}
		if err := k.page(leaves, &heads, keys); err != nil {
			return err
		}
	}
	c.seen[l.ID] = k.was.Size
	if !k.bad && (k.was.Root != l.Root || string(k.was.Edge) != string(l.Edge)) {
		k.broken(-1, "the leaves do not have the root of the log")
	}
	if !k.bad {
		if err := k.beyond(); err != nil {
			return err
		}
	}
	for _, h := range heads {
		if !k.bad {
			k.broken(-1, fmt.Sprintf("a head over %d leaves was published, and the log has %d", h.Size, l.Size))
		}
	}
	return nil
}

// beyond reports a leaf that the log, as it is now, does not have.
func (k *logCheck) beyond() error {
	leaves, err := k.Store.Leaves(k.ctx, k.log.ID, k.log.Size, 1)
	if err != nil || len(leaves) == 0 {
		return err
	}
	now, err := k.Store.Log(k.ctx, k.log.ID)
	if err == nil && leaves[0].Index >= now.Size {
		k.broken(leaves[0].Index, fmt.Sprintf("there is a leaf, and the log has %d", now.Size))
	}
	return err
}

// broken reports that the tree does not fit from a leaf on.
func (k *logCheck) broken(index int64, text string) {
	k.bad = true
	k.Found(Finding{k.log.ID, index, true, text})
}

// heads returns all heads of the log.
func (k *logCheck) heads() (all []store.SignedHead, err error) {
	for {
		after := int64(0)
		if len(all) > 0 {
			after = all[len(all)-1].Size
		}
		some, err := k.Store.Heads(k.ctx, k.log.ID, after, pageOfLeaves)
		if err != nil {
			return nil, err
		}
		// Heads that were published since the log was read are left to the next check.
		for _, h := range some {
			if h.Size > k.log.Size {
				now, err := k.Store.Log(k.ctx, k.log.ID)
				if err != nil {
					return nil, err
				}
				if h.Size <= now.Size {
					return all, nil
				}
			}
			all = append(all, h)
		}
		if len(some) < pageOfLeaves {
			return all, nil
		}
	}
}

// page checks leaves that follow those checked so far. It takes out of heads those over no more leaves.
func (k *logCheck) page(leaves []store.Leaf, heads *[]store.SignedHead, keys []Key) error {
	said := make([]receipt.Leaf, 0, len(leaves))
	for i := range leaves {
		l, n := &leaves[i], k.was.Size+int64(i)
		if l.Index != n {
			k.broken(n, "the leaf is missing")
			leaves = leaves[:i]
			break
		}
		k.checked.Leaves++
		text, leaf, err := Open(l)
		said = append(said, leaf)
		if l.Record == nil {
			k.missing(l)
		} else if text == nil {
			k.broken(n, "the text was changed: "+err.Error())
			leaves = leaves[:i]
			break
		} else if l.Hash != receipt.LeafHash(text) {
			k.broken(n, "the text was changed: it does not have the leaf's hash")
			leaves = leaves[:i]
			break
		}
		k.texts.erasedBy(k.log.TenantID, leaf)
		if fits, err := k.inTile(l); err != nil {
			return err
		} else if !fits {
			k.broken(n, "the leaf's hash is not the one in the tree")
			leaves = leaves[:i]
			break
		}
	}
	if err := k.records(leaves, said); err != nil {
		return err
	}
	// Heads divide the page, so that each has the root of the leaves up to it.
	rest := leaves
	for len(rest) > 0 {
		some := rest
		if len(*heads) > 0 {
			if end := (*heads)[0].Size - k.was.Size; end < int64(len(rest)) {
				some = rest[:end]
			}
		}
		rest = rest[len(some):]
		if fits, err := k.grow(some); err != nil || !fits {
			return err
		}
		for len(*heads) > 0 && (*heads)[0].Size == k.was.Size {
			k.head(&(*heads)[0], keys)
			*heads = (*heads)[1:]
		}
	}
	return nil
}

// inTile reports whether a leaf's hash is the one in its tile of level 0, if that is complete.
func (k *logCheck) inTile(l *store.Leaf) (bool, error) {
	n := l.Index / TileWidth
	if (n+1)*TileWidth > k.log.Size {
		return true, nil
	}
	if k.tile == nil || k.tileN != n {
		b, err := k.Store.Tile(k.ctx, k.log.ID, 0, n)
		if err != nil {
			return false, err
		}
		k.tile, k.tileN = append([]byte{}, b...), n
	}
	at := int(l.Index%TileWidth) * store.HashSize
	return at+store.HashSize <= len(k.tile) && string(k.tile[at:at+store.HashSize]) == string(l.Hash[:]), nil
}

// grow appends leaves to the tree and compares the tiles that this makes with those in the store.
func (k *logCheck) grow(leaves []store.Leaf) (fits bool, err error) {
	g := store.Growth{Log: k.log.ID, Was: k.was, Leaves: leaves}
	if err := grow(k.ctx, earlier{k.Store, k.was.Size}, &g); err != nil {
		if unread(err) {
			return false, err
		}
		k.broken(k.was.Size, err.Error())
		return false, nil
	}
	for _, t := range g.Tiles {
		if t.Level == 0 {
			continue // inTile has compared it
		}
		stored, err := k.Store.Tile(k.ctx, k.log.ID, t.Level, t.N)
		if err != nil {
			return false, err
		}
		for at := 0; at < len(t.Hashes); at += store.HashSize {
			if at+store.HashSize <= len(stored) && string(stored[at:at+store.HashSize]) == string(t.Hashes[at:at+store.HashSize]) {
				continue
			}
			first := (t.N*TileWidth + int64(at/store.HashSize)) << (t.Level * TileHeight)
			k.broken(first, fmt.Sprintf("the %d leaves from here on do not have the hash in the tree", int64(1)<<(t.Level*TileHeight)))
			return false, nil
		}
	}
	k.was = store.State{Size: g.Size, Root: g.Root, Edge: g.Edge}
	return true, nil
}

// earlier reads the tiles of a log as they were when it had size leaves.
type earlier struct {
	store.Journal
	size int64
}

func (e earlier) Tile(ctx context.Context, log kapsel.LogID, level int, n int64) ([]byte, error) {
	b, err := e.Journal.Tile(ctx, log, level, n)
	had := max(0, e.size>>(level*TileHeight)-n*TileWidth)
	return b[:min(int64(len(b)), had*store.HashSize)], err
}

// head checks a head over the leaves checked so far.
func (k *logCheck) head(h *store.SignedHead, keys []Key) {
	k.checked.Heads++
	if h.Root != k.was.Root {
		k.broken(-1, fmt.Sprintf("the first %d leaves are not those of the head that was published", h.Size))
		return
	}
	signed, err := receipt.OpenCheckpoint(string(h.Note), keysOf(k.log.ID, keys)...)
	if err != nil || signed.Checkpoint != headOf(h.Log, h.Size, h.Root) {
		k.broken(-1, fmt.Sprintf("the head over %d leaves is not signed by a key of this instance, or says something else", h.Size))
	}
}

// missing notes that the text of a leaf is gone.
func (k *logCheck) missing(l *store.Leaf) {
	switch {
	case l.AttemptID.IsZero():
		k.Found(Finding{k.log.ID, l.Index, false, "the text is gone, and it is about no attempt: such a text is never deleted"})
	case l.Index < k.log.TextsFrom:
		k.checked.Deleted++
	default:
		k.texts.missing(l.AttemptID, place{k.log.TenantID, k.log.ID, l.Index})
	}
}

// texts are the leaves whose texts are gone before their time is over, and the attempts of erased events.
// Each is forgotten when it meets the other, so what is left at the end does not fit.
type texts struct {
	gone  map[kapsel.AttemptID]place
	named map[kapsel.AttemptID]kapsel.TenantID // by erasures; no leaf without a text was met for them
	met   int64
}

type place struct {
	tenant kapsel.TenantID
	log    kapsel.LogID
	index  int64
}

func (t *texts) missing(id kapsel.AttemptID, at place) {
	if _, named := t.named[id]; named {
		delete(t.named, id)
		t.met++
		return
	}
	if t.gone == nil {
		t.gone = map[kapsel.AttemptID]place{}
	}
	t.gone[id] = at
}

func (t *texts) erased(tenant kapsel.TenantID, attempts []kapsel.AttemptID) {
	for _, id := range attempts {
		if _, gone := t.gone[id]; gone {
			delete(t.gone, id)
			t.met++
			continue
		}
		if t.named == nil {
			t.named = map[kapsel.AttemptID]kapsel.TenantID{}
		}
		t.named[id] = tenant
	}
}

// erasedBy notes what a leaf says of erased attempts, if it is the leaf of an erasure. It passes over what
// names no attempt: Kapsel writes no such leaf, and the hash of one that somebody wrote does not fit.
func (t *texts) erasedBy(tenant kapsel.TenantID, l receipt.Leaf) {
	leaf, ok := l.(*receipt.Erased)
	if !ok {
		return
	}
	var attempts []kapsel.AttemptID
	for _, text := range leaf.AttemptIDs {
		if id, err := kapsel.ParseAttemptID(text); err == nil {
			attempts = append(attempts, id)
		}
	}
	t.erased(tenant, attempts)
}

// missingTexts reports the texts that are gone and that no erasure names, and those that an erasure names and
// that are there.
func (c *Checker) missingTexts(ctx context.Context) error {
	if err := c.erasedSince(ctx); err != nil {
		return err
	}
	for id, at := range c.texts.gone {
		c.Found(Finding{at.log, at.index, false, fmt.Sprintf("the text about attempt %s is gone, before its time was over, and no erasure names it", id)})
	}
	for id, tenant := range c.texts.named {
		log, leaf, err := c.Store.LeafOf(ctx, tenant, id)
		if err != nil && kapsel.CodeOf(err) != kapsel.NotFound {
			return err
		}
		if err == nil && leaf.Record != nil {
			c.Found(Finding{log.ID, leaf.Index, false, fmt.Sprintf("the text about attempt %s was erased, and is there again", id)})
		}
	}
	c.checked.Erased = c.texts.met
	c.checked.Deleted += c.texts.met
	return nil
}

// erasedSince reads the erasures that have become leaves since the logs were checked, of the tenants of
// which texts are gone.
func (c *Checker) erasedSince(ctx context.Context) error {
	tenants := map[kapsel.TenantID]bool{}
	for _, at := range c.texts.gone {
		tenants[at.tenant] = true
	}
	for tenant := range tenants {
		l, err := c.Store.LogOf(ctx, tenant)
		if kapsel.CodeOf(err) == kapsel.NotFound {
			continue
		}
		for n := c.seen[l.ID]; err == nil && n < l.Size; {
			var leaves []store.Leaf
			if leaves, err = c.Store.Leaves(ctx, l.ID, n, pageOfLeaves); len(leaves) == 0 {
				break
			}
			for i := range leaves {
				if _, leaf, _ := Open(&leaves[i]); leaf != nil {
					c.texts.erasedBy(tenant, leaf)
				}
			}
			n += int64(len(leaves))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// records compares what leaves say with the attempts that they are about.
func (k *logCheck) records(leaves []store.Leaf, all []receipt.Leaf) error {
	var ids []kapsel.AttemptID
	for i := range leaves {
		if l := &leaves[i]; l.Record != nil && !l.AttemptID.IsZero() {
			ids = append(ids, l.AttemptID)
		}
	}
	recorded, err := k.Store.Recorded(k.ctx, ids)
	if err != nil {
		return err
	}
	for i := range leaves {
		l := &leaves[i]
		if l.Record == nil || l.AttemptID.IsZero() {
			continue
		}
		text := ""
		said, ok := all[i].(*receipt.Attempt)
		a, found := recorded[l.AttemptID]
		switch {
		case !ok:
			text = "the text is not that of an attempt"
		case said.AttemptID != l.AttemptID.String():
			text = "the row names attempt " + l.AttemptID.String() + ", and the text another one"
		case found && a.TenantID != k.log.TenantID:
			text = "attempt " + said.AttemptID + " is of another tenant than the log"
		case found && !says(said, &a):
			text = "the row of attempt " + said.AttemptID + " says something else than the text"
		case !found && k.Kept(k.log.TenantID, time.UnixMilli(said.EndedAtMS)):
			text = "attempt " + said.AttemptID + " is gone, before its retention was over"
		default:
			continue
		}
		k.Found(Finding{k.log.ID, l.Index, false, text})
	}
	return nil
}

// says reports whether a leaf says what the row of its attempt says.
func says(l *receipt.Attempt, a *kapsel.Attempt) bool {
	r := store.RecordOf(a, &kapsel.Commitments{})
	row := r.Leaf()
	row.URL, row.Payload, row.Request, row.Response = l.URL, l.Payload, l.Request, l.Response
	return string(l.Append(nil)) == string(row.Append(nil))
}
