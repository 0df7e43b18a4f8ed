package http2

import "time"

// A connection may do things that cost us something and bring nothing, as long as
// it does not make a living of it. Each kind has a budget: so many at once, some
// more each second, and more for work that is done.
const (
	// nuisances are frames without purpose: PING, SETTINGS, PRIORITY, unknown ones,
	// DATA without data, streams beyond the limit, and window updates, of which a peer
	// that receives data sends many (CVE-2019-9511, 9512, 9515, 9518 and their kin).
	// Envoy and nghttp2 let a thousand answers to such frames wait.
	nuisanceBurst   = 1000
	nuisancePerSec  = 200
	nuisancePerWork = 10 // for each frame of data or headers, either way

	// resets are streams that end before their answer: reset by the peer soon
	// (CVE-2023-44487, "rapid reset"), or by us for a fault of the peer's
	// (CVE-2025-8671, "made you reset"). Each may cost an endpoint a request. A client of
	// whom nothing is known yet may give up as many as clients open at once before they
	// know our limit; one that has let streams be answered, all of a connection twice
	// over. Beyond, one may be reset for each that is answered, the half that Envoy
	// allows, and some each second, the rate of nghttp2.
	resetBurst   = 100
	resetCredit  = 400
	resetPerSec  = 33
	resetPerWork = 1 // for each stream that ends as it should

	// prematureBefore is how old a stream is that may be given up without being charged, as
	// in Envoy: then as many as may be open at one time end in it, a load that needs no
	// resets, and may all have been waiting for an endpoint that hangs.
	prematureBefore = time.Second
)

// premature reports whether the stream's end now is one that a client should not make
// a habit of.
func (st *stream) premature(now time.Duration) bool {
	return !st.answered && now-st.since < prematureBefore
}

// budget is a token bucket. The zero budget is full.
type budget struct {
	spent int // below 0: what has been earned beyond the burst
	last  time.Duration
}

// spend takes n out and reports whether there was as much.
func (g *budget) spend(n int, now time.Duration, burst, perSec int) bool {
	if seconds := int((now - g.last) / time.Second); seconds > 0 {
		g.spent = max(min(g.spent, 0), g.spent-min(seconds, burst)*perSec)
		g.last = now
	}
	g.spent += n
	return g.spent <= burst
}

// earn puts n back, and no more than so much beyond a full budget.
func (g *budget) earn(n, credit int) { g.spent = max(-credit, g.spent-n) }
