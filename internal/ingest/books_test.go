package ingest

// Waiting is how many requests hold a place. When none is under way it is 0.
func (h *Handler) Waiting() int64 { return h.waiting.Load() }
