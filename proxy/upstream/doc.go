// Package upstream keeps connections to one endpoint, makes one attempt at a
// time on each of them, and says how it went.
//
// An [Endpoint] is one server: its identity, the counters that the detector
// reads, and a pool of idle connections. It is the same object for as long as
// the endpoint is the same, whatever the cluster around it does.
//
// An [Attempt] is one try on one endpoint. It begins when the endpoint has been
// chosen, before a connection is there, so that waiting for the connection is
// charged to the endpoint; and it ends exactly once, when the last byte of the
// answer has been read or everybody has given up.
//
//	a := endpoint.Begin(now, true)
//	conn, reused, err := endpoint.Get(ctx, now)
//	…
//	a.Headers(now)
//	…
//	a.End(outlier.Outcome{Class: class, Now: now, Conn: conn.Hash()})
//	endpoint.Put(conn, now)
//
// # Dead connections
//
// A server may close a connection while it lies idle, and a crash closes all of
// them at once. If each of them failed a request, one event would look like
// many. And a server may say more than was asked: what it says lies there for the
// next request, whose answer then lies there for the one after it. So a connection
// is looked at before it is handed out (one recv with MSG_PEEK), and dropped
// without a word if there is anything to read, the end included.
//
// A [Watch] notices the end of an idle connection when it comes. Then the endpoint may
// be gone, and may be asked ([Options.Hint]); package vigil tells which ends are worth it.
//
// Idle connections are not closed merely because a new one was refused: when
// only the listener of a server is gone, its old connections still answer. That
// they stand tells such a server from one that has crashed ([Endpoint.Stands]), and
// where there is no other server to go to, a request waits for one of them
// ([Options.RefusedWait]).
package upstream
