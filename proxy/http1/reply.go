package http1

import (
	"errors"
	"io"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/exchange"
)

// refuse answers what could not be read as a request.
func (c *conn) refuse(p *problem) {
	c.srv.deps.Metrics.Malformed.Add(1)
	c.guard.begin(c.now, c.srv.cfg.StreamIdleTimeout)
	c.open()
	c.reject(p.status, exchange.DownstreamProtocolError, p.text)
	c.account()
}

// vanish ends an exchange that nobody waits for any more.
func (c *conn) vanish(flag exchange.Flags, detail string) {
	c.lost = true
	c.Record.Flags |= flag
	c.Record.Detail = detail
}

// refuseBody answers a request whose body is malformed.
func (c *conn) refuseBody(p *problem) {
	c.srv.deps.Metrics.Malformed.Add(1)
	c.reject(p.status, exchange.DownstreamProtocolError, p.text)
}

// reject answers in place of an endpoint. It reports whether the connection can
// carry another request.
func (c *conn) reject(status int, flags exchange.Flags, text string) bool {
	return c.give(&exchange.Refusal{Status: status, Flags: flags, Text: text}, "")
}

// give is reject, with all that there may be to say; origin is x-overhear-origin.
func (c *conn) give(r *exchange.Refusal, origin string) bool {
	keep := c.body.done && c.req.persistent() && !c.leaves() && !c.hasty() && r.Flags&exchange.DownstreamProtocolError == 0
	c.Record.Status, c.Record.Flags = r.Status, c.Record.Flags|r.Flags
	if c.Record.Detail == "" && !r.Asked {
		c.Record.Detail = r.Text
	}
	c.buildReply(r, origin, keep)
	c.answered = true
	if _, err := c.out.send(c.nc, nil, nil); err != nil {
		c.lost = true
		c.Record.Flags |= exchange.DownstreamTermination
		return false
	}
	c.linger = !keep
	return keep
}

// fail answers for an attempt that did not bring anything, if there is still
// somebody to answer.
func (c *conn) fail(ending outlier.Ending) bool {
	why := c.guard.reason()
	flags := flagsOf(ending, why)
	if len(c.Record.Attempts) > 1 {
		flags |= exchange.RetriesExhausted
	}
	c.stopPump()
	c.guard.settle()
	switch why {
	case byBody:
		c.refuseBody(c.malformed)
		return false
	case byClient, byEnd:
		c.vanish(flags, "")
		return false
	}
	status, text, origin := c.Failed(&c.srv.deps, ending)
	return c.give(&exchange.Refusal{Status: status, Flags: flags, Text: text}, origin)
}

func flagsOf(ending outlier.Ending, why reason) exchange.Flags {
	switch why {
	case byEnd:
		return exchange.LocalReset
	case byClient:
		return exchange.DownstreamTermination
	case byBody:
		return exchange.DownstreamProtocolError
	}
	return exchange.FlagsOf(ending)
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) }
