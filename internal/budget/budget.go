// Package budget bounds the bytes of event bodies that a process holds at once: in requests being
// read, waiting for a commit, handed over to a worker, being sent, or being shown to people.
package budget

import "sync"

// Budget divides a number of bytes between requests, deliveries and readers; deliveries may hold at
// most half, and readers a quarter. A single body always fits: a request gets what it asks for if no
// request holds anything, and so do a delivery and a reader.
type Budget struct {
	mu         sync.Mutex
	limit      int64
	requests   int64 // held by requests
	deliveries int64 // held by deliveries
	readers    int64 // held by answers to people and programs that read bodies
}

// held is what all hold together. Callers must hold b.mu.
func (b *Budget) held() int64 { return b.requests + b.deliveries + b.readers }

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
	if b.held()+n > limit && b.requests > 0 {
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
	if b.held()+n > b.limit-b.limit/4 && b.requests > held {
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

// Read reserves n bytes for a body that is read from the store for an answer, and reports whether it did.
// The caller must give them back with release.
func (b *Budget) Read(n int64) (release func(), ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.readers > 0 && (b.readers+n > b.limit/4 || b.held()+n > b.limit) {
		return nil, false
	}
	b.readers += n
	return sync.OnceFunc(func() {
		b.mu.Lock()
		b.readers -= n
		b.mu.Unlock()
	}), true
}

// Body is the memory of one body that deliveries hold, however many they are.
type Body struct {
	budget  *Budget
	size    int64
	holders int // guarded by budget.mu
}

// Body reserves the memory of a body of n bytes for one delivery, which must end it with Release.
// Body returns nil if deliveries can have no more.
func (b *Budget) Body(n int) *Body {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.fits(int64(n)) {
		return nil
	}
	b.deliveries += int64(n)
	return &Body{b, int64(n), 1}
}

// Have takes the memory of a body of n bytes for one delivery, without any limit, because a body
// that was read already takes its memory.
func (b *Budget) Have(n int) *Body {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deliveries += int64(n)
	return &Body{b, int64(n), 1}
}

// Share returns the body for one more delivery, which must end it with Release.
func (m *Body) Share() *Body {
	m.budget.mu.Lock()
	defer m.budget.mu.Unlock()
	m.holders++
	return m
}

// Release ends one delivery's hold of the body. The last one gives the memory back.
func (m *Body) Release() {
	m.budget.mu.Lock()
	defer m.budget.mu.Unlock()
	if m.holders--; m.holders == 0 {
		m.budget.deliveries -= m.size
	}
}

// Bodies reserves up to most bytes, and at least 1, for bodies that are about to be read for
// deliveries. Callers must call done when they have taken the memory of those that were read.
// ok is false if deliveries can have no more.
func (b *Budget) Bodies(most int64) (n int64, done func(), ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n = max(1, min(most, b.limit/2-b.deliveries, b.limit-b.held()))
	if !b.fits(n) {
		return 0, nil, false
	}
	b.deliveries += n
	return n, func() {
		b.mu.Lock()
		b.deliveries -= n
		b.mu.Unlock()
	}, true
}

// fits reports whether deliveries can have n more bytes.
func (b *Budget) fits(n int64) bool {
	return b.deliveries == 0 || b.deliveries+n <= b.limit/2 && b.held()+n <= b.limit
}

// Used returns how many bytes requests, deliveries and readers hold.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held()
}
