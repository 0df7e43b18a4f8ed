package balancer

import "github.com/overhear-mesh/overhear/outlier"

// Tried is where one request has been already. The zero value is ready; it is
// small enough to live in the state of a request, and not safe for concurrent
// use. It remembers the last few: who retries more often may come back to the
// first.
type Tried struct {
	stats [7]*outlier.Endpoint
	n     int
}

// Add remembers an endpoint.
func (t *Tried) Add(e *outlier.Endpoint) {
	t.stats[t.n%len(t.stats)] = e
	t.n++
}

// Has reports whether e is remembered. A nil Tried remembers none.
func (t *Tried) Has(e *outlier.Endpoint) bool {
	if t == nil {
		return false
	}
	for _, s := range t.stats[:min(t.n, len(t.stats))] {
		if s == e {
			return true
		}
	}
	return false
}

// Len is how often Add was called since the last Reset.
func (t *Tried) Len() int { return t.n }

// Reset forgets all, for the next request.
func (t *Tried) Reset() { *t = Tried{} }
