// Package budget bounds the bytes of event bodies that a process holds at once: in requests being
// read, waiting for a commit, handed over to a worker, or being sent.
package budget

import "sync"

// Budget divides a number of bytes between requests and deliveries; deliveries may hold at most
// half. A single body always fits: a request gets what it asks for if no request holds anything,
// and a delivery if no delivery does.
type Budget struct {
	mu         sync.Mutex
	limit      int64
	requests   int64 // held by requests
	deliveries int64 // held by deliveries
}

// New returns a budget of limit bytes.
func New(limit int64) *Budget { return &Budget{limit: limit} }

// small is the size up to which a body may use the whole budget. Larger bodies must leave a
// quarter of it free, so that a few slow senders of large bodies cannot shut out everybody else.
const small = 64 << 10

// Request reserves n bytes for a request and reports whether it did. The caller must give them
// back with ReturnRequest.
func (b *Budget) Request(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	limit := b.limit
	if n > small {
		limit -= limit / 4
	}
	if b.requests+b.deliveries+n > limit && b.requests > 0 {
		return false
	}
	b.requests += n
	return true
}

// Grow reserves n more bytes for a request that holds held, and reports whether it did. It always
// does if no other request holds any.
func (b *Budget) Grow(held, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.requests+b.deliveries+n > b.limit-b.limit/4 && b.requests > held {
		return false
	}
	b.requests += n
	return true
}

// ReturnRequest gives back n bytes that a request reserved.
func (b *Budget) ReturnRequest(n int64) {
	b.mu.Lock()
	b.requests -= n
	b.mu.Unlock()
}

// Delivery reserves n bytes for deliveries and reports whether it did. The caller must give them
// back with Adjust.
func (b *Budget) Delivery(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.deliveries > 0 && (b.deliveries+n > b.limit/2 || b.requests+b.deliveries+n > b.limit) {
		return false
	}
	b.deliveries += n
	return true
}

// Adjust changes the bytes that deliveries hold by n, without any limit, because a body that was
// read already takes its memory. A negative n gives bytes back.
func (b *Budget) Adjust(n int64) {
	b.mu.Lock()
	b.deliveries += n
	b.mu.Unlock()
}

// FreeForDeliveries returns how many bytes deliveries could reserve now.
func (b *Budget) FreeForDeliveries() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(0, min(b.limit/2-b.deliveries, b.limit-b.requests-b.deliveries))
}

// Used returns how many bytes requests and deliveries hold.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.requests + b.deliveries
}
