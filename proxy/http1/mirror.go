package http1

// mirror has a copy of the request sent, if it is all here and there is to be one.
func (c *conn) mirror() {
	if c.Mirrored() && c.whole && !c.req.connect && c.upgrade == "" {
		c.Copy(&c.srv.deps, c.out.head[:c.head], c.in[c.req.size:c.data], c.tail)
	}
}
