// Package tcp carries opaque TCP connections.
//
// [Proxy.ServeConn] chooses an endpoint, connects, and moves bytes both ways
// until both sides have ended (see proxy/tunnel). A connect failure is repaired on
// another endpoint, since nothing has been sent. A connection that could not be made
// is reset: to whoever observes this host from outside, a dead application must look
// dead.
//
// # What a connection says about its endpoint
//
// One thing, once. A failed connect is a failure; the first byte from the server
// is a success; a server that ends without one, although the client had sent
// something, has failed; a client that ends first says nothing. Whatever comes
// later belongs to a protocol that this package does not know.
package tcp
