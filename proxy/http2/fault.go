package http2

import "github.com/overhear-mesh/overhear/proxy/wheel"

// delay lets the request wait as a rule's fault wants it. Of its time-outs only the
// caller's own runs meanwhile.
func (x *relay) delay(b *batch) {
	x.resumeAt = b.now + x.Delay
	x.moved = x.resumeAt // until then nothing has to
	if t := x.req.timeout; t > 0 {
		x.requestAt = x.Record.Start + t
	}
	x.arm()
}

// resume goes on after a wait: with the next attempt, or with the first.
func (x *relay) resume(b *batch) {
	if x.Endpoint != nil {
		x.attempt(b)
		return
	}
	x.resumeAt = wheel.Never
	stall, refusal := x.Proceed(b.now)
	x.proceed(b, stall, refusal)
}
