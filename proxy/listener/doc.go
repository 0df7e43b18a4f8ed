// Package listener accepts connections until it is drained.
//
// It knows no protocol: a [Listener] hands each connection to a [Handler], on a
// goroutine of its own, and counts it until the handler returns. Serve returns
// when all of them have.
//
// A listener that has as many connections as it may have stops accepting
// instead of refusing. The kernel's backlog then is the queue, bounded and in
// order, and to whoever observes this host from outside, it looks slow and not
// dead: overload must never be taken for a crash. The same goes for a process
// that is out of descriptors.
package listener
