package http1

import "github.com/overhear-mesh/overhear/outlier"

// delay waits as a rule's fault wants it, or until the client leaves. It reports
// whether the request goes on.
func (c *conn) delay() bool {
	c.guard.begin(c.now, 0)
	c.guard.awaited(c.now, 0, 0) // so that the client is watched
	goesOn := c.sleep(c.Delay)
	c.stopWatch()
	if !goesOn {
		c.vanish(flagsOf(outlier.EndClientAbort, c.guard.reason()), "")
	}
	return goesOn
}
