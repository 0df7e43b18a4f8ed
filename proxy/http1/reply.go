package http1

import (
	"errors"
	"io"

	"github.com/overhear-mesh/overhear/outlier"
)

// refuse answers what could not be read as a request.
func (c *conn) refuse(p *problem) {
	c.srv.deps.Metrics.Malformed.Add(1)
	c.guard.begin(c.now, c.srv.cfg.StreamIdleTimeout)
	c.open()
	c.reject(p.status, DownstreamProtocolError, p.text)
	c.account()
}

// vanish ends an exchange that nobody waits for any more.
func (c *conn) vanish(flag Flags, detail string) {
	c.lost = true
	c.record.Flags |= flag
	c.record.Detail = detail
}

// refuseBody answers a request whose body is malformed.
func (c *conn) refuseBody(p *problem) {
	c.srv.deps.Metrics.Malformed.Add(1)
	c.reject(p.status, DownstreamProtocolError, p.text)
}

// reject answers in place of an endpoint. It reports whether the connection can
// carry another request.
func (c *conn) reject(status int, flags Flags, text string) bool {
	return c.send(status, flags, text, "")
}

func (c *conn) send(status int, flags Flags, text, origin string) bool {
	keep := c.body.done && c.req.persistent() && !c.srv.draining.Load() && flags&DownstreamProtocolError == 0
	c.record.Status, c.record.Flags = status, c.record.Flags|flags
	if c.record.Detail == "" {
		c.record.Detail = text
	}
	c.buildReply(status, text, origin, keep)
	c.answered = true
	if _, err := c.out.send(c.nc, nil, nil); err != nil {
		c.lost = true
		c.record.Flags |= DownstreamTermination
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
	if len(c.record.Attempts) > 1 {
		flags |= RetriesExhausted
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
	status, text := statusOf(ending)
	origin := c.originFor(ending)
	if origin != "" {
		status = 503
	}
	return c.send(status, flags, text, origin)
}

// statusOf is the answer to an attempt that failed, as Envoy has it.
func statusOf(ending outlier.Ending) (int, string) {
	switch ending {
	case outlier.EndConnectRefused, outlier.EndUnreachable, outlier.EndTLS, outlier.EndOwnErrno:
		return 503, "no connection to the endpoint"
	case outlier.EndConnectTimeout:
		return 503, "connecting to the endpoint took too long"
	case outlier.EndLocalLimit:
		return 503, "too many connections"
	case outlier.EndPerTryTimeout, outlier.EndRouteTimeout, outlier.EndBodyIdle:
		return 504, "the endpoint did not answer in time"
	case outlier.EndClientNotReading:
		return 408, "the request's body did not come in time"
	case outlier.EndBadFraming:
		return 502, "the endpoint's answer is malformed"
	case outlier.EndBodyCut:
		return 502, "the endpoint's answer is incomplete"
	}
	return 503, "the endpoint closed the connection without an answer"
}

func flagsOf(ending outlier.Ending, why reason) Flags {
	switch why {
	case byEnd:
		return LocalReset
	case byClient:
		return DownstreamTermination
	case byBody:
		return DownstreamProtocolError
	}
	switch ending {
	case outlier.EndConnectRefused, outlier.EndUnreachable, outlier.EndTLS, outlier.EndOwnErrno, outlier.EndConnectTimeout:
		return UpstreamFailure
	case outlier.EndLocalLimit:
		return UpstreamOverflow
	case outlier.EndPerTryTimeout, outlier.EndRouteTimeout:
		return UpstreamTimeout
	case outlier.EndBodyIdle, outlier.EndClientNotReading:
		return StreamIdle
	case outlier.EndBadFraming:
		return UpstreamProtocolError
	case outlier.EndClientAbort:
		return DownstreamTermination
	}
	return UpstreamTermination
}

// originFor names what the application did, for the sidecar that asked.
func (c *conn) originFor(ending outlier.Ending) string {
	if c.srv.deps.Inbound == nil {
		return ""
	}
	switch ending {
	case outlier.EndConnectRefused, outlier.EndUnreachable:
		return outlier.OriginRefused
	case outlier.EndResetBeforeHeaders, outlier.EndKeepAliveRace, outlier.EndConnectionLost:
		return outlier.OriginReset
	case outlier.EndConnectTimeout, outlier.EndPerTryTimeout, outlier.EndRouteTimeout:
		return outlier.OriginTimeout
	}
	return ""
}

func originFlags(origin string) Flags {
	switch origin {
	case outlier.OriginRefused:
		return UpstreamFailure
	case outlier.OriginReset:
		return UpstreamTermination
	case outlier.OriginTimeout:
		return UpstreamTimeout
	}
	return 0
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) }
