package cache

import "github.com/rivuletfs/rivulet/chunk"

// Touch counts a use of chunk id that needed no Acquire, as by a descriptor that
// somebody has, and reports whether the chunk is held. It does no I/O.
func (c *Cache) Touch(id chunk.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, err := c.find(id)
	if err != nil {
		return false
	}
	c.policy.Access(e.id, c.now())
	c.changes++
	return true
}

// Unchecked reports whether Acquire of chunk id would read all of its file, which
// was not checked since Open.
func (c *Cache) Unchecked(id chunk.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, err := c.find(id)
	return err == nil && !e.checked
}

// Holds reports whether chunk id is held. It counts for nothing.
func (c *Cache) Holds(id chunk.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.find(id)
	return err == nil
}
