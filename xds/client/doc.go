// Package client keeps one ADS stream and tells its handler what arrives.
//
// [Client.Run] is the only goroutine that decodes, applies and acknowledges:
//
//	connect → subscribe to clusters → for each, to its endpoints → apply → ACK or NACK
//	        → subscribe to listeners, if wanted → for each, to its routes → the same
//
// What a sidecar has been told stays valid while nobody tells it otherwise: losing
// the stream changes nothing but [Handler.Stream]. A new stream begins with the
// versions that are held, so a server sends only what differs.
//
// The protocol is that of
// https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol, in its
// incremental aggregated variant; with a server that does not know it in the older one,
// which tells the state of the world and is put into the words of the other (sotw).
package client
