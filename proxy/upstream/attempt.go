package upstream

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Attempt is one try on one endpoint, made by Endpoint.Begin. It lives in the
// state of whoever makes it and belongs to one goroutine. It may be handed on,
// but not used through two copies. The zero Attempt has ended.
type Attempt struct {
	outlier.Attempt
	endpoint *Endpoint // nil once it has ended
}

// Headers says that the head of an answer has arrived.
func (a *Attempt) Headers(now time.Duration) {
	if a.endpoint != nil {
		a.endpoint.Stats.Headers(&a.Attempt, now)
	}
}

// End says how the attempt went. Only the first call counts: whoever sees the
// end first knows it best, and the deferred call of a connection that dies
// finds that everything has been said.
func (a *Attempt) End(o outlier.Outcome) {
	e := a.endpoint
	if e == nil {
		return
	}
	a.endpoint = nil
	if e.Stats.End(&a.Attempt, o) {
		e.wake()
	}
}

// Ended reports whether End has been called, or the attempt never began.
func (a *Attempt) Ended() bool { return a.endpoint == nil }

// Endpoint is where the attempt goes; nil once it has ended.
func (a *Attempt) Endpoint() *Endpoint { return a.endpoint }
