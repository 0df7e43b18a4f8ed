// Package http1 speaks HTTP/1.1 with clients and with endpoints.
//
// # The path of a request
//
// One goroutine serves one client connection and all that its requests need:
// read a head, match a route, pick an endpoint, write the head anew, read the
// answer, write it back. A head is parsed where it was read, into offsets; there
// is no map of headers and no string per header. Head and body leave in one
// write wherever both are there, so that a request costs a read and a write on each
// side, besides reads that find nothing yet. Nothing on this path allocates. That
// goroutine ends when no request comes for a while: see conn.live.
//
// Three more goroutines exist when they must. A request body that is not there
// when the first attempt begins is carried by a pump, so that an endpoint may
// answer before it has seen all of it. A client that has waited for some tens of
// milliseconds is watched, so that its leaving is noticed. An attempt that is overdue
// gets another one beside it, on another endpoint. All end before the next request is
// looked at.
//
// # Time
//
// No deadline is set per request. A connection has a handful of instants
// (idle, head, try, request) under a lock that nobody else wants, and one coarse
// wheel per server visits it when the first of them is due. Who is late gets
// interrupted: only then the deadlines of the connections are touched, and the
// goroutine that wakes finds the reason beside them.
//
// # Framing
//
// Where two readers of a message could disagree about its end, it is refused:
// 400 and close towards a client, 502 and close towards an endpoint. That is
// stricter than RFC 9112 demands, and stricter than net/http, which is the
// oracle of this package's tests: whatever this package takes, net/http takes
// too, and reads the same.
//
// A connection becomes a tunnel when the listener allows it, the client asks and the
// endpoint consents (see conn.tunnel): WebSocket and other protocols by Upgrade, and
// CONNECT, which is passed on to the endpoint as it came.
//
// Whatever goes wrong after the head of an answer has been passed on ends the
// client's connection, before the body's end: a cut answer never looks whole.
//
// # Outcomes
//
// Each try on an endpoint is an attempt of proxy/upstream. It ends once: when the
// last byte of the answer has been read, when the endpoint failed, or when the
// client left; outlier.ClassifyHTTP says what that means.
package http1
