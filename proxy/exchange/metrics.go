package exchange

import "sync/atomic"

// Metrics are the numbers of one or more servers. The zero value is ready;
// whoever exposes them reads them at any time.
type Metrics struct {
	Connections atomic.Int64     // open at the moment
	Tunnels     atomic.Int64     // open at the moment: connections and streams that have changed their protocol
	Requests    atomic.Uint64    // begun; those that were refused as malformed included
	Status      [6]atomic.Uint64 // answers to clients by the first digit of the status; 0: no answer
	Retries     atomic.Uint64    // attempts beyond a request's first
	Hedges      atomic.Uint64    // those of them that began while another was overdue
	HedgesWon   atomic.Uint64    // and brought the answer
	Mirrored    atomic.Uint64    // requests of which a copy was sent
	Unmirrored  atomic.Uint64    // and of which one should have been sent, and was not
	Malformed   atomic.Uint64    // requests that were refused, and connections of HTTP/2 that were ended for what the client sent
	BadAnswers  atomic.Uint64    // responses that were refused
	Pumps       atomic.Uint64    // request bodies that needed a goroutine
	Watches     atomic.Uint64    // clients that waited long enough to be watched
}
