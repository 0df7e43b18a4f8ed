//go:build !unix

package upstream

// peekFD cannot look: a dead connection is found by using it.
func (c *Conn) peekFD(uintptr) bool {
	c.peeked = false
	return true
}
