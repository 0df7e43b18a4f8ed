package http2

import "github.com/overhear-mesh/overhear/proxy/exchange"

// cleanPath does to the request's path what the listener wants. It reports whether the
// request goes on.
func (r *request) cleanPath(p *exchange.Paths) bool {
	if !p.Dirty(r.path) {
		return true
	}
	clean, ok := p.Clean([]byte(r.path))
	r.path = string(clean)
	return ok
}
