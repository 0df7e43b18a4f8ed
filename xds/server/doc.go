// Package server serves xDS to sidecars, Envoys and gRPC clients: state of the
// world and delta, aggregated and per type, by name and by wildcard.
//
// Servers of xDS find out what to answer to a client by walking all names that it
// subscribes to. Here the walk goes the other way:
//
//	topic         one name of one type, for one kind of client; it knows its content
//	              (marshalled once, shared by everybody) and who is interested
//	subscription  one type on one stream: what the client was sent and accepted, and
//	              a set of topics that changed since ("dirty")
//	stream        what is to be written to a client; it may be sent one response of a
//	              type, and the next when it has answered
//
// A change marks the subscriptions of its topic dirty and queues their streams to be
// flushed: its cost does not depend on what else those streams subscribe to. A client
// that is slow has its dirty set grow to at most its topics, and gets one response with
// the newest of each when it is back.
//
// The queue is emptied a few streams at a time, those first that the change concerns
// most (see [Server.ApplyFirst]), so that what the first are told is on its way long before the
// last have their turn. In a thousand streams that matters more than what one costs:
// test/bench/push measures both. Streams that share a connection follow one another: what
// a hundred of them are told is written and read at once.
//
// What is kept for each client is small, because there are many: that it holds what there
// is, as nearly always, are a few bits (ledger), and the bytes of a response are those of
// the topic's content, to which the stream's own nonce and version are put (wire). Nobody
// waits for a client under the lock: a goroutine writes to it, which ends when all is
// written.
//
// That is why the streams are not served by go-control-plane's server/v3, whose messages are
// used: it keeps the names and versions of each stream in maps of its own, beside those of a
// cache behind its cache.Cache interface, and a second goroutine. A client of 1 000 names
// took 224 KB with it, and takes 46 KB here, of which gRPC's connection is 35. test/bench/push
// measures its caches beside this one.
//
// What a client of a zone sees is the topic's content for that zone if it has one
// of its own, else the fleet's: zones cost only what differs in them.
//
// Versions are hashes of content, in delta of a resource and in state of the world
// of all that the subscription was sent, so that a client that reconnects, to this
// server or to another one with the same content, is sent nothing that it holds. One
// that names what it wants in state of the world is sent it all: it may have dropped a
// name and taken it up again, which its version does not tell.
//
// # Rules of the protocol that are easy to miss
//
//   - Nothing is answered before [Server.Ready]: an Envoy keeps what it has while a
//     server is silent, and drops everything when one answers with an empty world.
//   - On one stream the order is clusters, endpoints, listeners, routes. An Envoy is
//     sent listeners and routes when it has acknowledged the clusters before them,
//     and a cluster is removed when the client has answered the listeners and routes
//     before that: nothing ever refers to what is not there.
//   - In Envoy a cluster that changed stays "warming" until endpoints arrive after
//     it, also when they are the same, and the response that brought it is not
//     acknowledged before that. So the endpoints of the clusters in a response are
//     sent again right behind it, on the same stream; on a stream of their own, where
//     they could overtake, when the response is acknowledged.
//   - An Envoy that has its clusters from another control plane asks again, in state of
//     the world, for the endpoints of one that changed: by a request with the names of
//     before which answers no response. It is sent all that it names. One with other names
//     as well cannot be told from a mere change of names, and is sent what is new.
//   - State of the world: clusters and listeners are always sent whole, because what
//     is missing is deleted; endpoints and routes only as far as they changed.
//   - Delta: a name that does not exist is answered with removed_resources, and a
//     name that is subscribed again is sent again.
//   - No resource has a time to live. When one on endpoints expires in state of the
//     world, Envoy 1.40 crashes.
package server
