// Package merge turns what many observers counted into one verdict per endpoint
// per scope.
//
// # Model
//
// A reporter is a sidecar that calls endpoints and says, again and again, how
// many of its attempts on each of them ended in which way: cumulative counters,
// no opinions. A [Table] keeps the newest counters of each reporter and endpoint
// (a cell), compares them with what they were when the trouble began, and
// decides which endpoints the whole fleet, or the callers of one zone, should
// leave alone.
//
// Everything here is pure: the caller brings reports, answers and the time in,
// and takes changes and orders out of [Table.Step]. The package starts no
// goroutine, reads no clock, holds no lock and knows no wire. One goroutine owns
// a Table.
//
// # Words
//
// An excursion is the time while the merged score of an endpoint is above zero.
// A suspicion is a question that a hard failure or an attempt that is overdue
// opens, and that other reporters answer by one probe each. A verdict is the
// state of an endpoint in a scope: the fleet, or one zone of observers. To
// suspend is to stop traffic reversibly and without a record; to eject is to
// stop it with a record, and to let it come back only in steps.
//
// A fault domain is what one broken observer may be: all reporters of one node,
// or, where nodes are unknown, all reporters of one principal. Whatever needs
// several opinions counts fault domains and not reporters: two sidecars on one
// machine whose network is cut are one broken observer that speaks twice.
//
// # Two ways to a verdict
//
// The hard way asks. A refused, reset or unreachable connection opens a
// suspicion; up to three reporters of other zones and fault domains are ordered
// to probe the endpoint now. If three of them (fewer where there are fewer) are
// witnesses of the failure, and nobody's success began after it, the endpoint is
// ejected at once. This is the indirect probe of SWIM (Das, Gupta, Motivala 2002),
// started by real traffic. Probes only confirm: a good probe clears nobody, because a
// gray failure answers probes (Huang et al. 2017). Connections that were reset are no
// crash until a new one has failed as well, and new ones that fail are none while old
// ones are answered: that nobody has told of an answer lately means nothing, so that the
// table asks those who have said nothing, and asks again when there was time for some
// answers. It need not where two fault domains that had answers lately find their
// connections gone, or where a neighbour of the zone is down as well. A few endpoints of
// the suspect's zone are probed as well, so that a zone that is down is found at once
// and not one endpoint after the other, as traffic finds it. If a large part of a group
// is suspected at once, a sample of each zone stands for the zone; those of whom nobody
// can tell make room in it for others. Whoever is contradicted is not heard about that
// endpoint for a second, and after three times in a row for ten; until the second is over
// nobody else's refusals that are told late make a verdict either.
// What is not decided, and nobody tells of any more because all callers have left by their
// own rules, is probed again after a second, and then less and less often, until somebody
// has had an answer.
//
// If attempts only hang, at as many fault domains, and nobody has had an answer for a
// moment, the endpoint is suspended. Three reporters go on trying it in turn, one
// attempt after 1, 3, 7, 11 … s in all (one a second, by more of them, where each has
// few requests for it); each that hangs renews the suspend, and the first that is answered
// ends it. Where the ping of the application is known to work, one a second goes first,
// and until one is answered there is an attempt after 8, 24, 56 … s. The table
// remembers the longest pause that ended by itself in the last ten minutes and suspends
// for none that is not half as long again, up to 1.75 s: a process that stands still to
// collect garbage is suspended once, and its like not
// again. The first such pause looks like a hang in every respect, within the time in
// which a hang is to be found. To be wrong about it is cheap: nobody has an answer
// meanwhile, nothing goes on the record, and traffic is back with the first answer.
//
// The statistical way counts. Per fault domain d, c_d is the log likelihood
// ratio of its counts since the excursion began: failing at rate p1 against
// failing at rate p0. The statistic is
//
//	T = sum of all c_d, less the f largest positive ones
//
// with f = 1 by default. T at the threshold implies that without any one domain
// the CUSUM (Page 1954) of the others is over the threshold as well, so no single
// broken observer, however loud, gives a verdict. It costs next to nothing: at the
// same mean time between false alarms the sum of all c_d, which one liar can move,
// would find half or a fifth of errors only some percent sooner.
//
// A row, one such test of one endpoint, begins where the reporter whose failure opened
// it was last without a score. What the others have told of before counts from that
// instant too: a reporter without failures tells of up to ten seconds at once, and
// those successes are spread evenly over them. Failures are told at once. A statistic
// that is on its way has everybody's counts told (a watch), and before a verdict those
// who have been silent are polled, for T without their successes is too high.
//
// A verdict must then rest on more than one moment of broken connections (a process
// that drops all of them and goes on has told one piece of news, by many mouths), and
// pass the group guard (if everybody fails alike, the endpoint is not the cause), the
// gathering of neighbours (so that a zone leaves in one push), the choice of scope (a
// fault of the endpoint is seen from everywhere, a fault of the path from one zone), and
// the caps. Where chance let one zone see the errors first, and it has left, two thirds
// of the evidence do for the others for half a minute. What the group or a cap has held back for a second must be seen anew once
// they let it: meanwhile the endpoint may have become well.
//
// # Latency
//
// Slow answers are answers, so that latency gives no verdict but a weight, for all
// callers: see [Weight]. The two tests of package outlier run over what all reporters
// have counted, again without the f loudest domains. Reporters tell of two very slow
// answers in a row, or now and then of one; the table then asks the others. A group
// that is slow as a whole keeps its weights.
//
// # Broken observers
//
// A fault domain that fails towards many endpoints of which nobody else complains is
// muted: its evidence is set aside for a minute, and what it said meanwhile stays out
// afterwards. It is told so and fails open: what merely fails from there keeps its
// traffic. A reporter that distrusts itself counts for less.
//
// # Recovery
//
// No timer alone restores traffic. An ejected endpoint waits (the wait doubles with
// each ejection on its record, and a healthy minute takes one off), is probed by three
// fault domains (where nobody can probe, as Envoys cannot, it goes on at once), then gets
// a small share from chosen sidecars until a sequential probability ratio test (Wald 1945)
// accepts or rejects it, then rises to its full share. The test looks for the fault that
// was found: for errors of 5 % it takes more requests than for errors of 50 %. Until its
// first success, and after a failure until the next, the endpoint gets two attempts a second
// from the whole fleet, and nobody whose requests have failed is asked again before others
// are, or a minute has passed: a test of what is still bad costs one request each of two
// machines. A machine that alone speaks against it is replaced. An answer ends the wait
// after a hard verdict, because what refused connections is back when it takes them. What
// was suspended before it was ejected for anything else has been tried all the while, and
// waits for as long again.
//
// An instance that is started again is tested at once, with nothing on its record,
// unless it has been three times in five minutes. A new instance begins with the rise
// to its full share. One that drains gets nothing new and is not judged.
//
// # Idle endpoints
//
// An endpoint that no traffic speaks of for about ten seconds is pinged by three
// assigned reporters in turn, once in 25 seconds in all, however many reporters there
// are. After a miss the others ask again within a second; a belief in the manner of
// Trinocular (Quan, Heidemann, Pradkin 2013) decides, at three misses more than answers
// by two pingers. A refused ping is a hard failure like any other. As soon as traffic
// speaks the leases end.
//
// # Use
//
//	t := merge.NewTable(merge.DefaultConfig(), seed)
//	t.Restore(saved, now)                       // verdicts of before
//	t.SetService("api", policy, endpoints, now) // what the registry says
//	t.Join(reporter, services, now)             // a report stream was opened
//	if t.Apply(report, now).Urgent {            // or it is t.Step's time
//		result := t.Step(now)
//		// publish result.Changes, send the orders, come back at result.Next
//	}
//
// # Order does not matter
//
// Reports that arrive between two Steps may be permuted or doubled: the table
// and the next changes are the same. Counters are cumulative, so a lost report
// costs delay only. A restart of the owner readmits nobody: see [Table.Restore].
//
// # Times, and what was tried to halve them
//
// From the first failed attempt until the fleet is off, medians of the simulator (seeds 1
// to 20) at 50/s and 10 reporters, then at 100/s and 20: for 50 % errors .38 and .24 s at
// a base of 1 %, .32 and .18 s at 0.1 %; for 20 % errors 1.2 and .71 s, 1.2 and .44 s.
//
// With the thresholds raised to the same time between false alarms (base 1, 2 and 3 %),
// the mean attempts to a verdict at 50 and 20 % errors, 50/s, 10 reporters are:
//
//	T as it is, p0 .025, p1 .2             21.7   79.6
//	a sharper p0, .020                     22.3   79.0
//	p1 .5, or .2 and .5 side by side       21.8    254, or 21.5   84.9
//	the sum of all, which one liar moves   21.1   74.8
//
// So a sharper p0 only moves the rate of false alarms, and variance between reporters can
// be worth no more than leaving one out costs. Earlier reports are what was left, and a
// group guard that reads the last tenth of a second where that suffices: at 500 requests/s,
// 100 reporters and a base of 1 % it halved the time (20 %: 0.51 to 0.23 s).
//
// # Limits
//
// f + 1 broken fault domains that fail alike, and are not muted, give a verdict. At one
// request a second from all reporters, errors of 50 % take some twenty seconds.
//
// Reporters see routes and the table does not. When a reporter finds out that a route
// fails everywhere, it takes back what that route did to its own scores, but not what it
// has told: counters only grow, so that a lost report costs delay and no more, and no
// reading is heard that is older than the last report, so that their order makes no
// difference. What such a route does before it is found out, within some twenty requests
// at each reporter, the guards must bear. Where requests are spread evenly it does the
// same to all endpoints; where they are hashed by few keys, errors on one route are not
// told while the endpoint answers others.
package merge
