// Package conformance runs what others have written to find out whether an
// implementation of HTTP/2 or gRPC is one, against a sidecar on real sockets:
//
//   - h2spec, all sections, with endpoints of both versions of HTTP behind the
//     sidecar;
//   - gRPC's own interop client and server, all cases that need no credentials of a
//     cloud, through an outbound and an inbound sidecar;
//   - WebSocket, by a client and an application of this package: frames of all sizes,
//     fragments, pings, closing from either side, through two sidecars;
//   - floods beside good clients: who floods is cut off, what that costs is counted, and
//     the others lose no request;
//   - a soak of requests with checksums, of HTTP, gRPC, WebSocket and TCP in all
//     combinations of versions, while endpoints crash, hang, drain and return: none may
//     be lost, mixed up, or carried out twice against the rules, and in the end neither
//     goroutines nor memory may be left. `-soak N` makes it as long as one likes.
//
// h2spec and the soak run on both paths: on the descriptors of sockets, and on connections
// that show none. What this package does not hold is nearer to the code: the differential
// tests against net/http, and requests made for smuggling, stand in proxy/http1 and
// proxy/http2.
//
// One command runs it:
//
//	go test ./test/conformance
//
// h2spec is fetched once, by `go install` at a pinned version, into the user's cache
// directory. Where that cannot be, its test is skipped, and says so; with
// OVERHEAR_REQUIRE_CONFORMANCE=1, as CI sets it, that is a failure.
package conformance
