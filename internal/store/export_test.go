package store

import "context"

// Sweep is one turn of a janitor.
func (j *Janitor) Sweep(ctx context.Context) error { return j.sweep(ctx) }

// Kept counts what the cache holds.
func (c *Cache) Kept() (endpoints, tenants, circuits int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.endpoints), len(c.tenants), len(c.circuits)
}
