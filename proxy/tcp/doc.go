// Package tcp carries opaque TCP connections.
//
// [Proxy.ServeConn] chooses an endpoint, connects, and moves bytes both ways
// until both sides have ended. A connect failure is repaired on another
// endpoint, since nothing has been sent. What the client sees afterwards is what
// the server did: an end of stream is passed on as a half-close, a reset as a
// reset, so that a truncated stream is never taken for a complete one. A
// connection that could not be made is reset too: to whoever observes this host
// from outside, a dead application must look dead.
//
// # What a connection says about its endpoint
//
// One thing, once. A failed connect is a failure; the first byte from the server
// is a success; a server that ends without one, although the client had sent
// something, has failed; a client that ends first says nothing. Whatever comes
// later belongs to a protocol that this package does not know.
//
// # Copying
//
// A direction begins with a small buffer, since most connections are idle most
// of the time, takes a large one while data flows, and hands bulk data to the
// kernel (splice, where there is one) while it keeps coming.
package tcp
