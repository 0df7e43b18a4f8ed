package http1

// cleanPath does to the request's path what the listener wants. It reports whether the
// request goes on.
func (c *conn) cleanPath() bool {
	target := &c.req.target
	clean, ok := c.srv.deps.Paths.Clean(target.of(c.in))
	if end := target.start + int32(len(clean)); end != target.end {
		target.end = end
		c.title()
	}
	return ok
}
