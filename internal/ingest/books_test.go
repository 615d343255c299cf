package ingest

// Waiting is how many requests hold a place. When none is under way it is 0.
func (h *Handler) Waiting() int64 { return h.waiting.Load() }

// Kept counts what is kept of endpoints and tenants: verifiers, the quotas of tenants, and
// endpoints whose refusals are remembered.
func (h *Handler) Kept() (verifiers, quotas, refused int) {
	h.verifiers.mu.Lock()
	defer h.verifiers.mu.Unlock()
	h.quotas.mu.Lock()
	defer h.quotas.mu.Unlock()
	h.refusals.mu.Lock()
	defer h.refusals.mu.Unlock()
	return len(h.verifiers.byID), len(h.quotas.tenants), len(h.refusals.endpoints)
}
