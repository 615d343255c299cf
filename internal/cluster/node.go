package cluster

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Membership holds the methods of the store that a Node uses; see store.Queue.
type Membership interface {
	Join(ctx context.Context, node kapsel.NodeID, now time.Time, lease time.Duration) error
	Renew(ctx context.Context, node kapsel.NodeID, now time.Time, lease time.Duration) error
	Leave(ctx context.Context, node kapsel.NodeID) error
	TakeOver(ctx context.Context, now time.Time, limit int) (moved int, err error)
}

// Host is what runs on a node. A Node calls its methods one at a time, except that TookOver may run
// beside the others.
type Host interface {
	// Joined is called when the store knows the node under a new ID, before Certain returns that ID.
	Joined(id kapsel.NodeID)
	// Renewed is called each time that the lease has become certain for longer; joined says that the
	// node has just joined. An error is returned to the caller of Join or logged, and changes nothing.
	Renewed(ctx context.Context, joined bool) error
	// Lost is called when the node was declared dead. Certain returns false from before the call
	// until the node has joined again. Lost gives back what the node holds unsent: no other node may
	// have taken it over yet.
	Lost()
	// TookOver is called every fifth of the lease, with how many deliveries of dead nodes are pending
	// again since the last call. It is not called if the store failed.
	TookOver(ctx context.Context, moved int)
}

// NodeConfig holds what a Node needs. All fields must be set.
type NodeConfig struct {
	Store Membership
	Now   func() time.Time // returns the store's time
	Lease time.Duration    // how long a silent node keeps its work
	Host  Host
	Log   *slog.Logger
}

// Node is the life of this process as a node: it joins, renews its lease, takes over the deliveries
// of dead nodes, and starts again under a new ID if other nodes declared it dead.
//
// A node may send only while its lease is certain. Another node may take over its deliveries as soon
// as the lease has ended by the store's clock, so the node stops at 70 % of the lease by its own
// monotonic clock.
type Node struct {
	cfg   NodeConfig
	lease atomic.Pointer[lease] // replaced by Join and KeepAlive only

	mu        sync.Mutex
	judging   bool      // a take-over is under way
	judgeFrom time.Time // when this node may judge leases again, by the monotonic clock
}

// lease holds what a node knows of its lease. It is never changed.
type lease struct {
	node   kapsel.NodeID
	asked  time.Time // when the last renewal that succeeded was sent, by the monotonic clock; zero: the lease is lost
	stored time.Time // … and by the store's clock
}

// storeTime returns the store's time at now, counted from the last renewal. By this time a lease that
// is certain has not ended.
func (l *lease) storeTime(now time.Time) time.Time { return l.stored.Add(now.Sub(l.asked)) }

// certain reports whether less than 70 % of the lease has passed since the last renewal was sent.
func (l *lease) certain(lasts time.Duration) bool { return time.Since(l.asked) < lasts*7/10 }

// NewNode returns a node that the store does not know until Join is called.
func NewNode(cfg NodeConfig) *Node {
	n := &Node{cfg: cfg}
	n.lease.Store(&lease{})
	return n
}

// ID returns the node's ID, whether its lease is certain or not. It is zero before Join.
func (n *Node) ID() kapsel.NodeID { return n.lease.Load().node }

// Certain returns the node's ID, and whether its lease certainly holds.
func (n *Node) Certain() (id kapsel.NodeID, ok bool) {
	l := n.lease.Load()
	return l.node, l.certain(n.cfg.Lease)
}

// Join makes the node known to the store under a new ID. Callers must call it before KeepAlive and
// TakeOver, again if it fails. If this process's own clock is far from the store's, TakeOver waits until
// nodes that run have met a jump of the store's clock. Join fails if the store cannot be written or
// Host.Renewed fails.
func (n *Node) Join(ctx context.Context) error {
	now, asked := n.cfg.Now(), time.Now()
	if asked.Round(0).Sub(now).Abs() > n.cfg.Lease/2 { // the store's clock may have jumped just now, which renew cannot see
		n.wary(asked)
	}
	id := kapsel.NewNodeID(now)
	if err := n.cfg.Store.Join(ctx, id, now, n.cfg.Lease); err != nil {
		return err
	}
	n.cfg.Host.Joined(id)
	n.lease.Store(&lease{node: id, asked: asked, stored: now})
	return n.cfg.Host.Renewed(ctx, true)
}

// KeepAlive renews the node's lease every fifth of it until ctx ends. After that it begins no
// join, even if a renewal under way finds that the node was declared dead.
func (n *Node) KeepAlive(ctx context.Context) {
	tick := time.NewTicker(n.cfg.Lease / 5)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := n.renew(ctx); err != nil && ctx.Err() == nil {
			n.cfg.Log.Warn("the node's lease could not be renewed", "error", err)
		}
	}
}

// clockSync is the longest time between two readings of the store's clock, including the time for
// the answer.
const clockSync = 15 * time.Second

// wary has the node judge no leases for a while after a jump of the store's clock, which it met at a time. A
// lease written by the clock before the jump is wrong by the clock after it, and the other way round; all
// nodes notice the jump within clockSync and renew their leases. wary reports whether a take-over is under
// way.
func (n *Node) wary(at time.Time) (judging bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.judgeFrom = at.Add(clockSync + n.cfg.Lease)
	return n.judging
}

// renew renews the node's lease, or has the node rejoin if it was declared dead and ctx has not ended.
// After a jump of the store's clock renew leaves the lease as it is while a take-over is under way.
// It fails if the store or Host.Renewed does.
func (n *Node) renew(ctx context.Context) error {
	now, asked := n.cfg.Now(), time.Now()
	was := n.lease.Load()
	if jump := now.Sub(was.storeTime(asked)).Abs(); jump > n.cfg.Lease/5 && n.wary(asked) {
		return nil // the lease leaves time for the next tick
	}
	limited, cancel := context.WithTimeout(ctx, n.cfg.Lease/2)
	defer cancel()
	switch err := n.cfg.Store.Renew(limited, was.node, now, n.cfg.Lease); {
	case kapsel.CodeOf(err) == kapsel.Conflict && ctx.Err() == nil: // a node that stops must not come back
		return n.rejoin(limited)
	case err != nil:
		return err
	}
	n.lease.Store(&lease{node: was.node, asked: asked, stored: now})
	return n.cfg.Host.Renewed(limited, false)
}

// rejoin starts again under a new ID after this node was declared dead. Exchanges that still run will
// find their records refused. Nothing starts until the node has joined.
func (n *Node) rejoin(ctx context.Context) error {
	n.cfg.Log.Error("the node was silent past its lease and declared dead; it starts again under a new id")
	was := n.lease.Load()
	n.lease.Store(&lease{node: was.node, stored: was.stored})
	n.cfg.Host.Lost()
	return n.Join(ctx)
}

// takeOverBatch limits the deliveries that one call of the store moves.
const takeOverBatch = 500

// TakeOver takes over the deliveries of dead nodes, at once and then every fifth of the lease, until
// ctx ends.
func (n *Node) TakeOver(ctx context.Context) {
	tick := time.NewTicker(n.cfg.Lease / 5)
	defer tick.Stop()
	for {
		moved, err := n.takeOver(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			n.cfg.Log.Warn("work of dead nodes could not be taken over", "error", err)
			n.cfg.Host.TookOver(ctx, 0) // the host's own work does not need theirs, whose rows may be damaged
		default:
			if moved > 0 {
				n.cfg.Log.Info("took over deliveries of a dead node; their outcomes are unknown", "deliveries", moved)
			}
			n.cfg.Host.TookOver(ctx, moved)
			if moved == takeOverBatch {
				continue // dead nodes may hold more
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// takeOver moves up to takeOverBatch deliveries of dead nodes, and returns how many it moved. It
// moves none while this node may not judge other leases. It fails if the store does.
func (n *Node) takeOver(ctx context.Context) (moved int, err error) {
	// A node that was frozen must renew its own lease before it judges other leases. If TakeOver ran
	// before KeepAlive, the node could take over its own deliveries.
	l, now := n.lease.Load(), time.Now()
	n.mu.Lock()
	n.judging = l.certain(n.cfg.Lease) && now.After(n.judgeFrom)
	may := n.judging
	n.mu.Unlock()
	if !may {
		return 0, nil
	}
	defer func() {
		n.mu.Lock()
		n.judging = false
		n.mu.Unlock()
	}()
	return n.cfg.Store.TakeOver(ctx, l.storeTime(now), takeOverBatch)
}

// Leave ends the node's lease at once. Other nodes then take over what the node still holds. It fails
// if the store does; the lease then ends by itself.
func (n *Node) Leave(ctx context.Context) error { return n.cfg.Store.Leave(ctx, n.ID()) }
