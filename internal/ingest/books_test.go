package ingest

// Waiting returns how many requests hold a place. When none is under way it is 0.
func (h *Handler) Waiting() int64 { return h.waiting.Load() }

// Kept counts what is kept of endpoints and tenants: prepared settings, the quotas of tenants, and
// endpoints whose refusals are remembered.
func (h *Handler) Kept() (verifiers, quotas, refused int) {
	h.quotas.mu.Lock()
	defer h.quotas.mu.Unlock()
	h.refusals.mu.Lock()
	defer h.refusals.mu.Unlock()
	return h.prepared.Len(), len(h.quotas.tenants), len(h.refusals.endpoints)
}
