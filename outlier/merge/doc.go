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
// ejected at once. If only attempts hang, it is suspended. This is the indirect
// probe of SWIM (Das, Gupta, Motivala 2002), started by real traffic. Probes
// only confirm: a good probe clears nobody, because a gray failure answers
// probes (Huang et al. 2017). Before it decides, the table asks those who have
// said nothing: requests on connections that still stand may be answered although
// new ones are refused, and that is a lost listener and no crash. A few endpoints of
// the suspect's zone are probed as well, so that a zone that is down is found at
// once and not one endpoint after the other, as traffic finds it.
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
// pass the group guard (if everybody fails alike, the
// endpoint is not the cause), the gathering of neighbours (so that a zone leaves
// in one push), the choice of scope (a fault of the endpoint is seen from
// everywhere, a fault of the path from one zone), and the caps.
//
// # Latency
//
// Slow answers are answers, so that latency gives no verdict but a weight, for all
// callers: see [Weight]. The two tests of package outlier run over what all reporters
// have counted, again without the f loudest domains. Reporters tell of two very slow
// answers in a row, or now and then of one; the table then asks the others. A group
// that is slow as a whole keeps its weights.
//
// # Recovery
//
// No timer alone restores traffic. An ejected endpoint waits (the wait doubles
// with each ejection on its record), is probed by three fault domains, then gets
// a small share from chosen sidecars until a sequential probability ratio test
// (Wald 1945) accepts or rejects it, then rises to its full share.
//
// # Idle endpoints
//
// An endpoint that no traffic speaks of is pinged by three assigned reporters;
// a belief in the manner of Trinocular (Quan, Heidemann, Pradkin 2013) decides.
// As soon as traffic speaks the leases end.
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
package merge
