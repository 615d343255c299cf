// Package budget bounds the bytes of event bodies that a process holds at once: in requests
// being read, waiting for a commit, handed over, or being sent.
package budget

import "sync"

// Budget is a number of bytes, at most half of which deliveries may hold. One body always
// fits: a request or a delivery that finds its part empty gets what it asks for.
type Budget struct {
	mu         sync.Mutex
	limit      int64
	requests   int64 // held by requests
	deliveries int64 // held by deliveries
}

// New makes a budget of limit bytes.
func New(limit int64) *Budget { return &Budget{limit: limit} }

// small is the size up to which a body may use all of the budget. Larger ones leave a quarter
// of it, so that a few senders of large bodies, who may take their time, do not keep
// everybody else out.
const small = 64 << 10

// Request reserves n bytes for a request and reports whether they were free.
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

// Grow adds n bytes to the held ones that a request reserved, if they are free or no other
// request holds any.
func (b *Budget) Grow(held, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.requests+b.deliveries+n > b.limit-b.limit/4 && b.requests > held {
		return false
	}
	b.requests += n
	return true
}

// ReturnRequest gives back what a request reserved.
func (b *Budget) ReturnRequest(n int64) {
	b.mu.Lock()
	b.requests -= n
	b.mu.Unlock()
}

// Delivery reserves n bytes for deliveries and reports whether they were free.
func (b *Budget) Delivery(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.deliveries > 0 && (b.deliveries+n > b.limit/2 || b.requests+b.deliveries+n > b.limit) {
		return false
	}
	b.deliveries += n
	return true
}

// Adjust changes what deliveries hold by n bytes, whether free or not: a body that was read
// is there. n is negative to give back.
func (b *Budget) Adjust(n int64) {
	b.mu.Lock()
	b.deliveries += n
	b.mu.Unlock()
}

// FreeForDeliveries is how many bytes deliveries could reserve now.
func (b *Budget) FreeForDeliveries() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(0, min(b.limit/2-b.deliveries, b.limit-b.requests-b.deliveries))
}

// Used is how many bytes are held.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.requests + b.deliveries
}
