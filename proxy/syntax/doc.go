// Package syntax knows what all versions of HTTP write alike: which bytes may
// stand where, which fields mean something to a proxy, what a host looks like.
//
// What it takes is the strict reading of RFC 9110: where two readers could
// disagree, the answer is no.
package syntax
