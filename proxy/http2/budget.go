package http2

import "time"

// A connection may do things that cost us something and bring nothing, as long as
// it does not make a living of it. Each kind has a budget: so many at once, some
// more each second, and more for work that is done.
const (
	// nuisances are frames without purpose: PING, SETTINGS, PRIORITY, unknown ones,
	// DATA without data, and window updates, of which a peer that receives data
	// sends many (CVE-2019-9511, 9512, 9515, 9518 and their kin).
	nuisanceBurst   = 2000
	nuisancePerSec  = 200
	nuisancePerWork = 10 // for each frame of data or headers, either way

	// resets are streams that end before their answer: reset by the peer
	// (CVE-2023-44487, "rapid reset"), or by us for a fault of the peer's
	// (CVE-2025-8671, "made you reset"). The rate is nghttp2's, the burst half of its: all
	// streams of a connection twice over. Each costs an endpoint a request.
	resetBurst   = 500
	resetPerSec  = 33
	resetPerWork = 1 // for each stream that ends as it should
)

// budget is a token bucket. The zero budget is full.
type budget struct {
	spent int
	last  time.Duration
}

// spend takes n out and reports whether there was as much.
func (g *budget) spend(n int, now time.Duration, burst, perSec int) bool {
	if seconds := int((now - g.last) / time.Second); seconds > 0 {
		g.spent = max(0, g.spent-min(seconds, burst)*perSec)
		g.last = now
	}
	g.spent += n
	return g.spent <= burst
}

// earn puts n back.
func (g *budget) earn(n int) { g.spent = max(0, g.spent-n) }
