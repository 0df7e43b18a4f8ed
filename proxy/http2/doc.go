// Package http2 speaks HTTP/2 with clients and with endpoints (RFC 9113), without TLS:
// who connects knows that it is spoken. gRPC is HTTP/2 with trailers that matter.
//
// # The path of a request
//
// A [link] is one connection, at either end. It has one goroutine, its reader, which
// parses frames over one large buffer and does, for each of them, all that follows
// from it: it decodes a head, finds a route and an endpoint, and appends the frames
// that this endpoint should see to the buffer of a connection to it. When the reader
// has done everything that one read brought, it flushes the connections whose buffers
// have grown, each once (a batch), and not before whoever is ready to run has had his
// say on them as well. So one system call carries frames of many streams and of many
// clients, and there is no goroutine for a stream, and none that writes, as long as the
// peer reads: a write never waits. What a socket does not take at once is left to a
// goroutine that ends with it.
//
// A [relay] is one request between two links. Both readers and the wheel drive it, one
// at a time under its lock. Locks are taken in the order party (a relay or a wire),
// pool, link, and no two of a kind at one time. A stream lives in its party, and again
// in the party's next use: news of it carry its number, by which old news are told.
//
// What is decided about a request is decided in proxy/exchange, as for HTTP/1.1. Of a
// request that is overdue there may be two streams at one time (hedge.go).
//
// # The other version
//
// Where one side speaks HTTP/1.1, a stream is made to look like a connection on which
// that is spoken (a wire), and proxy/http1 carries the exchange: it is the client's
// side of one (a bridge), or the endpoint's (a lend). Tunnels, WebSocket by extended
// CONNECT among them, go this way whatever the two sides speak (tunnel.go).
//
// # Flow control
//
// A peer may send as much as Config.StreamWindow on each stream. What has found its
// place in the other connection's buffer is granted anew, in frames of half a window.
// What has not, because the other side's window is shut or its buffer full, waits in
// its relay. The window of a connection is as large as those of all its streams, so
// that streams that stand still hold up no others.
//
// # Who does not keep to the rules
//
// A violation ends its stream or its connection, as RFC 9113 has it, and nothing is
// guessed. What costs us something and brings nothing has a budget (budget.go), a head
// has limits before it is decoded and after, and whoever does not read what he makes
// us say is cut off. Known attacks, each with a test of that name: rapid reset
// (CVE-2023-44487), made you reset (CVE-2025-8671, also by malformed heads),
// CONTINUATION without end or content (CVE-2023-45288), SETTINGS, PING, PRIORITY, empty
// DATA (CVE-2019-9511 to 9518), WINDOW_UPDATE, frames of no known type, slow readers and
// stuck windows, heads that do not come, bombs of HPACK and thousands of tiny fields
// (CVE-2019-15226); 120 crumbs of a cookie pass, and are counted (CVE-2026-47774).
package http2
