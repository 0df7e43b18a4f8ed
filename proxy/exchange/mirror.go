package exchange

import "github.com/overhear-mesh/overhear/proxy/router"

// Mirror is proxy/mirror's Client.
type Mirror interface {
	// Send copies a request in HTTP/1.1, head, body and what ends it, and sends it by
	// route; it reports whether it has, and waits for nothing.
	Send(route *router.Route, head, body, tail []byte) bool
}

// Mirrored reports whether a copy of the request is to be sent. Whoever can make one
// calls Copy, when the request goes out.
func (x *Exchange) Mirrored() bool { return x.mirror != nil }

// Copy sends the request to its mirror, as the endpoint gets it; to be called once.
func (x *Exchange) Copy(d *Deps, head, body, tail []byte) {
	to := x.mirror
	x.mirror = nil
	if d.Mirror != nil && to.Cluster != nil && d.Mirror.Send(to, head, body, tail) {
		d.Metrics.Mirrored.Add(1)
	} else {
		d.Metrics.Unmirrored.Add(1)
	}
}
