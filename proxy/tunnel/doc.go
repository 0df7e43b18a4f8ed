// Package tunnel moves bytes between two connections, both ways, until both sides
// have ended: opaque TCP, and what remains of an HTTP connection that has changed to
// another protocol.
//
// What one side sees is what the other did: an end of stream is passed on as a
// half-close, a reset as a reset, so that a truncated stream is never taken for a
// complete one.
//
// # Copying
//
// A direction begins with a small buffer, since most connections are idle most
// of the time, takes a large one while data flows, and hands bulk data to the
// kernel (splice, where there is one) while it keeps coming.
package tunnel
