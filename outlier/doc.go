// Package outlier decides, from the outcomes of real requests, what one
// observer believes of each endpoint of a cluster: a passive failure detector.
//
// It is arithmetic and nothing else. It imports the standard library only,
// reads no clock, starts no goroutine and takes no lock; instants and dice
// come in as values, changes of belief go out. Package merge, below, turns
// what many observers counted into one verdict, with the same statistics.
//
// # Words
//
// An attempt is one try on one endpoint; each retry and each hedge is one. Its
// [Class] is what it says about the endpoint: [Conn], [Timeout] and [Server]
// count against it, [OK] for it, the others not at all. n is the number of
// counted attempts, k that of failures. A hard failure is one of class Conn.
//
// An excursion is the time while an endpoint's score is above 0. To suspend is
// to stop using an endpoint without a record, until its first answer. To eject
// is to take it out on record; it comes back by a probe, then a probation on a
// small share of real requests, then a ramp. Self-doubt ("lhm", 0 to 7) is how
// far the observer distrusts itself.
//
// # What counts
//
// An attempt is judged when it ends, not at its headers, and also when a retry has
// repaired it. [ClassifyHTTP] and [ClassifyTCP] are the tables; the first that matches
// wins, in this order: what says nothing, what was cut short when an answer was due,
// what is too much to do, then the failures. Some of it is less obvious than it looks:
//
//   - An answer that refuses for want of room (429, 503 with Retry-After,
//     REFUSED_STREAM, RESOURCE_EXHAUSTED) is an answer. 501 and 505 are honest, too.
//   - A deadline that had no time to be met, a client that left, our own limits and
//     errnos say nothing of the endpoint.
//   - A gRPC answer with HTTP 200 and without a status, in headers or trailers, is a
//     failure. So is a code that nobody defined: clients take it for UNKNOWN.
//   - A stream that is reset with NO_ERROR or CANCEL before its end is a failure like
//     one with another code: somebody owed an answer.
//   - One event is one failure. Of many streams on one connection that is lost one is
//     charged, by whoever owns the connection. And where many connections break within
//     100 ms, with no answer in between, the counters take one: a process that
//     restarts, a load balancer that lets go, a router that forgets break any number
//     of them, and that number says how much there was to do, not how bad it is.
//
// # The hot path
//
// [Endpoint.Start], [Endpoint.Headers] and [Endpoint.End] only count: a handful of
// atomic operations for the whole attempt, no allocation but for the room that the first
// failure and each route, when it is first heard of, take. Each failure adds a log
// likelihood ratio to the endpoint's score, each success subtracts one; End says when
// the slow path should look. All the rest happens in [Detector.Step], which one
// goroutine calls, each 100 ms or so while something is wrong, and whenever an End
// asked for it: for one, with each failure until the score alarms, so that others hear
// of it at once.
//
// # The rules
//
// Errors. Page's test (Page 1954): the score is the sum of log likelihood ratios of
// "fails with p1" against "fails with p0", never below 0; it alarms at a threshold h.
// Of all tests with the same mean time between false alarms it has the shortest
// worst-case delay (Lorden 1971, Moustakides 1986). p0 follows the group's own error
// rate ([FastOdds], [TrimmedMean]) and h the endpoint's rate ([Threshold]), so that a
// healthy endpoint raises a false alarm about once a month at whatever rate it works.
// At a base of 1 % an endpoint that fails all requests is found after 6 attempts, at
// 50 % after 12, at 20 % after 43. An alarm needs three failures from two connections
// or from two moments 100 ms apart.
//
// Everybody's fault. When the neighbours fail too, a suspect must be worse than they
// are by a test of its own ([Guard]), and more so when the whole group fails or dawdles
// far beyond its habit, because then it lacks capacity. Suspects that come in numbers
// wait 300 ms for each other, so that a rack leaves in one step and a broken dependency
// ejects nobody (Rapid: Suresh et al. 2018). Suspect and neighbours are compared in the
// same window, since the suspect's score left 0, of 1 s to 30 s: in one of another
// length their good past would hide that they fail now as well.
//
// Too little of everything. Endpoints that are overloaded fail in bursts, now this
// one, now that, and each that is taken out overloads the rest. Before the first
// failure they queue: all answers together take three times their usual median or
// more. Later all fail far more than they are used to, if one looks back ten or thirty
// seconds. As long as either holds, only an endpoint that fails most of what it gets
// may leave: what it still answers nobody else has room for ([Surroundings.Trouble]).
// But that all are slow does not excuse one endpoint that has failed a third of its
// requests or more for half a minute in which nobody else failed.
//
// The route's fault. A route that fails wherever it is served, such as a request that
// every version of the program stumbles over, looks like its endpoint's fault where
// chance or a hash sends more of it. Routes are compared with one another: a failure on
// one that stands out is worth less, and one that mostly fails, on two endpoints, is
// set aside, with what it did in the last 10 s. An ejection that rested on it is
// withdrawn, without a record. A cluster with one route has nothing to compare: there
// the error rate of the group has to do. Where requests are hashed and an endpoint has
// fewer than ten keys, or nobody counts them, errors on one route say nothing of an
// endpoint that answers others ([Detector.SetHashed]); they are not even reported before
// another route fails there as well, because those who add up what many saw do not see
// routes. With so few keys the error rate of the others is no measure either.
//
// Down. A hard failure opens a suspicion: the endpoint is probed within 20 and 120 ms.
// If both probes fail hard and nothing was answered in between, it is ejected; waiting
// for statistics would only send it more requests. Any answer to an attempt that began
// later than the failure ends the suspicion (SWIM: Das, Gupta, Motivala 2002). A good
// probe does no more than that. It takes nothing from the score, since a port that
// accepts, or a health path that answers, proves nothing about requests: an endpoint
// that resets all of them goes by its score, at one failure each 100 ms.
//
// A process that dies closes its idle connections, too, at all callers at once. That is
// no evidence, because servers close idle connections for many a reason, but whoever
// hears it may probe, and a probe that is refused is a failed attempt as any other
// ([Detector.Hinted]): so a crash costs no more where more callers share the load.
//
// Hung. Attempts that await their headers are counted by age. Older than D_over, four
// times the group's p99, they are overdue; two of them, or one that is alone, and
// silence for longer than the endpoint's own rhythm explains, suspend it. Overdue is no
// failure, so a pause is forgiven with the first answer, and a pause that was once
// recovered from makes D_over longer. Attempts that began long before the newest answer
// say nothing: an earlier pause left them behind. Clients that give up early do not
// hide a hang: their attempts stay overdue for D_over more (class [Censored]). A route
// that is slow by nature, of whose answers more than 1 % are later than overdue_min
// while those of other routes are not, has a D_over of its own ([Endpoint.Overdue]), and
// its late answers are no pauses.
//
// Slow. Two more of Page's tests watch the share of answers beyond the group's p90 and
// p99. They lower the endpoint's weight, to what its neighbours' share is of its own,
// and never eject. A group that is slow together keeps its balance.
//
// Idle. Without traffic, pings tell: a belief moves by each ([Belief]; Trinocular:
// Quan, Heidemann, Pradkin 2013), and three net misses take the endpoint out. Pings
// never overrule traffic. The Detector says who is due ([Detector.Idle]).
//
// Overload. An endpoint that says that it has too much to do is believed, and never
// ejected for it.
//
// In a row. Who comes from a proxy that counts consecutive failures can have that as
// well ([Config.RunAny]). It is off by default, because it is both slow and rash: a run
// of five takes 3 900 attempts to come about at 20 % errors, and at 5 %, which may be
// normal, it comes once in some 3.4 million attempts, which a busy endpoint makes in
// an hour or two.
//
// Ourselves. When most endpoints of several clusters turn bad within one second, or our
// own Step comes late, the fault is likely ours: thresholds rise, D_over grows, nobody
// is suspended ([Self]; Lifeguard: Dadgar, Phillips, Currey 2017). A control plane to
// which nobody else complains of what we complain of may say so ([Self.Mute]): then
// errors alone take nobody out.
//
// # The balancer must not starve the detector
//
// A balancer that flees from failures takes away the traffic that would prove them: a
// peak EWMA with a penalty of 5 s for each error leaves an endpoint with 20 % errors one
// attempt in forty, so that no verdict is ever reached and every client pays for
// itself. So [Endpoint.Cost] books SERVER and TIMEOUT failures as no more than the
// group's p99, and as no less than its p90, because fast errors look fast. Only a hard
// failure is booked as a long latency: its probes say the rest. And a latency that kept
// everybody away for ten turns is not held against its endpoint until the next request:
// it may have been one slow answer ([Endpoint.Latency]).
//
// # Never make it worse
//
// At most max_out of the endpoints of one priority may be out, local and central belief
// together, rounded down, and never the last ([Config.Cap]). Only what is down may go
// beyond, while the rest can bear its load. Of two endpoints, one goes only if the other
// is known to be well. If less than the panic share is usable all the same, the least
// bad are used, and what the whole fleet has left only after the rest. Whatever was
// refused is told, with its reason, like what was done: see [Change] and [Explanation].
// In shadow mode all is decided and told, and nothing done.
//
// # Recovery
//
// in → ejected (a hold-off that doubles with each ejection on record) → probing (one
// good probe) → probation → ramp → in. Probation is a sequential probability ratio test
// (Wald 1945) between "as good as its group" and "as bad as it was when it went"
// ([TrialOdds]): about 22 clean successes on a tenth of a fair share readmit after a
// large fault, about 110 after one of 5 %, because 22 clean ones are what an endpoint
// with 5 % errors shows every third time. Two or three early failures send back. What
// passed and had to go again is tried for half of its fault. After a hard cause, three
// successes and two good probes suffice. No timer alone restores traffic.
//
// A control plane's [Verdict] combines with the local belief towards avoiding: the
// smaller share counts. Nothing central can force traffic onto an endpoint that cannot
// be reached from here. A control plane that stays away for a minute leaves its
// endpoints to the local recovery.
//
// # Use
//
//	d := outlier.New(outlier.DefaultConfig(), rand.New(rand.NewPCG(seed, 0)))
//	d.SetMembers([]outlier.Member{{ID: "a"}, {ID: "b"}, {ID: "c"}}, now)
//
//	// Requests, on any goroutine:
//	e := d.Endpoint("a") // looked up once, then held
//	a := e.Start(now, true)
//	e.Headers(&a, now)
//	if e.End(&a, outlier.Outcome{Class: outlier.OK, Now: now}) {
//		wake()
//	}
//
//	// The owner, when woken and at the latest at r.Next:
//	r := d.Step(now)
//	for _, p := range r.Probes {
//		run(p) // and bring the result to d.Probed
//	}
//	if r.Changed {
//		publish(d.View())
//	}
//
// Instants are time since one epoch of the process, never wall time. Scores
// are integers, in milli-nats.
//
// # Limits
//
// An error rate of 5 % at a base of 3 % takes one observer thousands of attempts, and
// at a base of 20 % even one of 50 % does. At one request a second or less only hard
// failures and hangs are found soon. An endpoint that hangs while its port still
// accepts is, without traffic and without an application-level ping, not found at all.
//
// OKs of routes are sampled where there are many, so that for a moment a route of which
// a third fails may pass for one that mostly does. A route whose key is pinned to one
// endpoint costs that endpoint one short ejection, which is withdrawn when a second
// endpoint shows the same. Failures that are taken back stay in [Counts], which others
// may have read; only [Counts.Tally] of this detector leaves them out.
//
// What a healthy endpoint costs in false alarms assumes that p_g is known exactly; it
// runs low by half a standard deviation.
//
// # Sources
//
//   - Page, "Continuous Inspection Schemes", Biometrika 41 (1954)
//   - Wald, "Sequential Tests of Statistical Hypotheses", Ann. Math. Stat. 16 (1945)
//   - Lorden, "Procedures for Reacting to a Change in Distribution", Ann. Math. Stat. 42 (1971)
//   - Moustakides, "Optimal Stopping Times for Detecting Changes in Distributions", Ann. Stat. 14 (1986)
//   - Chen, Toueg, Aguilera, "On the Quality of Service of Failure Detectors", IEEE ToC 51 (2002): detection
//     time, mistake rate and mistake duration are what such a detector is judged by
//   - Das, Gupta, Motivala, "SWIM: Scalable Weakly-consistent Infection-style Process Group Membership Protocol", DSN 2002
//   - RFC 9110 §15 and RFC 9113 §6.8, §7, §8.1 for what answers, resets and GOAWAY mean; gRPC's status codes and
//     gRFC A6 (retry pushback) for gRPC
//   - Envoy's outlier detection, for rules that count failures in a row; Finagle's peak EWMA, for the cost
//   - Quan, Heidemann, Pradkin, "Trinocular: Understanding Internet Reliability Through Adaptive Probing", SIGCOMM 2013
//   - Dadgar, Phillips, Currey, "Lifeguard: Local Health Awareness for More Accurate Failure Detection", 2017
//   - Suresh et al., "Stable and Consistent Membership at Scale with Rapid", USENIX ATC 2018
package outlier
