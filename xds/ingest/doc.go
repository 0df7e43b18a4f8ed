// Package ingest lets unmodified Envoys report evidence: it serves Envoy's Load
// Reporting Service (LRS) and turns the load reports into the reports that the evidence
// table takes. It serves health discovery (HDS), too, by which they probe.
//
// # Model
//
// An Envoy that is told to (load_stats_config in its bootstrap) opens one stream and
// says each 100 ms, for each endpoint of each cluster, how many requests it issued, how
// many succeeded and failed since it last said so, and how many it waits for. Each such
// stream is one reporter, with the node id and the zone of the Envoy's node. What it
// says adds up to the cumulative counters that a sidecar would report; a sidecar's other
// evidence is derived as far as that can be done with certainty:
//
//   - A failure is one of class server. There is one number for all of them, timeouts
//     and resets too.
//   - It is one of class conn, a hard failure, where more requests ended than were there
//     to end: those that were waited for when the interval began, and those issued in
//     it. A request that never got a connection was not issued. What the Envoy's own
//     circuit breakers turned away looks the same; of that the cluster has a number, and
//     so many failures of each of its endpoints are set aside.
//   - A success began within the interval if there were more of them than requests were
//     waited for when it began.
//   - Requests are overdue if more of them have no answer than were issued lately. How
//     long they may take is learnt from those that took long and were answered.
//
// Each of these is a bound that errs towards knowing less: no failure is called hard
// and no request overdue that may be something else.
//
// # Kinds of failures
//
// An Envoy that logs its upstream attempts here too (ALS, upstream_log of its router; the
// failed ones are enough) says how each failed: a connection that was refused or cut, a
// time-out, an error. Records are no count. Each is given to a failure that a load report
// of the same Envoy has counted within a second, which has the kind and, if it was hard, is
// dated by that report's interval; one that finds none is set aside. So what is lost on its
// way costs the kind of a failure, and nothing counts twice. An Envoy that only logs says
// nothing. A time-out of the route and a client that went away look the same in a log,
// and of these it says nothing either.
//
// # Envoys that cannot report
//
// Before 1.36 an Envoy has no load reports by endpoint. The configuration can name admin
// addresses of such; their /clusters is read at intervals, and what the counters have grown
// by is taken as a load report, with the kinds of failures as far as counters of failed
// connections and time-outs tell. The first page tells nothing, since nobody knows how old
// its numbers are. The reporter is the node id that /server_info gives. A restart of the
// Envoy is another incarnation; counters that fall, endpoints that were missing, pages that
// are none, and an admin that does not answer are counted by reason and are no news of
// anybody's health. One that sends load reports is not polled.
//
// # What is not there
//
// Latency. Requests that are overdue, for services of gRPC and of plain TCP: Envoy counts
// a gRPC call as a success when it has ended, so that a stream that is open for hours
// looks like one that hangs. A request whose client gave up is neither a success nor a
// failure; nor is it waited for. An Envoy answers no polls, since what it knows it tells at
// once.
//
// # Probes
//
// An Envoy with hds_config in its bootstrap asks what to probe (HDS), and is given the
// probes that the table orders of it and pings of endpoints without traffic. It is told a
// set of checks and says each 50 ms how each stands, as healthy, timed out or unhealthy.
// Unhealthy it also calls what it has not tried yet. So each order has checks of a name
// that no other has, made once and taken away when it is answered, withdrawn or out of
// time; and beside the check of the order there is one that only opens a connection, with a
// timeout below 50 ms. After one whole interval that one has ended, and what it reached
// neither within nor beyond its timeout was refused.
//
//	the Envoy says                       the table hears   at level
//	healthy                              ok                of the check
//	timed out                            timeout
//	unhealthy, of a connection           refused           connect
//	unhealthy, with an HTTP status       unhealthy         app
//	unhealthy, without one, in the end   unhealthy         app
//
// "Refused" may be a host without a route as well, or an Envoy that is short of sockets.
// It is a hard failure, and weighs what that of a sidecar does: it makes its Envoy one
// witness, of one fault domain, and a verdict wants as many others as there can be, up to
// two. When it was is not told; it counts as of the moment of its order, so that any answer
// since outweighs it. A connection that was reset while the application was asked is never
// called hard: it cannot be told from nonsense. Probes of gRPC health are connections only,
// as health discovery knows no others; so are those that should reach the application
// of a service without a ping of http.
//
// Who is asked is known by its load reports: health discovery of an id that does not
// report, or of another principal, is served and not used. An Envoy makes 10 probes a
// second at most and 64 at a time; results of what nobody asked for are counted and
// ignored.
//
// # Whom it believes
//
// As on a report stream: endpoints of services that xDS has sent to the node of that id;
// one live stream per id, which another principal cannot take over; so many reporters
// per principal. An Envoy's fault domain is the node that its metadata name
//
//	node: { metadata: { overhear: { node: host-7 } } }
//
// else its address. Rows about clusters and endpoints that are unknown, and numbers that
// cannot be, are counted by reason ([Refusal]), logged once on a stream, shown with their
// Envoy ([report.Refusals]) and left out; they are no evidence of health either. An Envoy's
// counters are deltas, and begin when its stream does: each stream is an incarnation of its
// own.
//
// # Time
//
// A load report has no time, but it has the length of its interval. These add up to a
// clock of the Envoy's, which is mapped to the table's as a sidecar's is, so that a
// message that had to wait on its way does not make old news look new.
package ingest
