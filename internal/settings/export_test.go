package settings

// Kept counts what the cache holds.
func (c *Cache) Kept() (endpoints, tenants, circuits int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.endpoints), len(c.tenants), len(c.circuits)
}
