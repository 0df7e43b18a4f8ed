// Package replay says what a policy would have done with what sidecars have
// recorded.
//
//	recordings, err := replay.Scan(files)        // who, when, of which endpoints
//	outcome, err := recordings.Replay(policy)    // as often as there are policies
//
// It feeds the evidence table of the control plane, outlier/merge, in virtual time:
// the reports of all sidecars in the order in which they were made, their clocks
// aligned by the wall clock at which each began. (The live control plane aligns them
// by arrival; a file has none. Machines whose wall clocks differ by d are seen d
// apart, which matters where successes and failures within d contradict each other.)
//
// Files of one sidecar may overlap, as copies do, or files that were taken while it
// went on: of the time that two of them tell of, one counts ([Repeat]).
//
// # What was asked
//
// A table decides by asking: it orders probes, polls counts, lends test shares. What
// another policy would have asked, nobody was asked. Stand-ins answer, the first that
// fits:
//
//   - A probe: a result that the same sidecar recorded for the endpoint at that time;
//     else its own traffic, if in the time of the probe an attempt began of which it
//     reported the success or the hard failure; else, unless the probe was to confirm
//     a suspicion, results of other sidecars, each one once, and their traffic. For
//     the way back it matters that somebody asked, for a suspicion who did. If nothing
//     fits, the probe was not run, as when a sidecar is busy.
//   - A ping under a lease: pings and probes of the endpoint in the record, its
//     holder's own first.
//   - A count poll: the counts between two reports of the sidecar, in proportion to
//     the time between them. The later report is in the record, so that this is
//     nearer to the truth than to go without, which would make every score too high.
//   - A share of the traffic on probation: what the record says that sidecars counted
//     under a share, the holder's own first; where the endpoint was in use at the
//     time, the holder's usual traffic.
//   - Nobody watches an endpoint more closely than the sidecars did.
//
// # What was held
//
// A recording has what each sidecar believed, and whether that was its own or the
// control plane's. Verdicts of the control plane are told apart by their epoch.
//
// # How far it can be believed
//
// The record is what happened under the policy that was in force. Up to the moment
// at which the two part, a replay is exact but for the network's delay and the choice
// of who was asked. Against whole meshes in virtual time (test/sim/mesh):
//
//   - A verdict of the statistic (rules fast and slow) comes at the same time, within
//     milliseconds where most requests fail, and within a second, by one failure more
//     or less, where the score climbs slowly.
//   - A crash is found within 200 ms of the live verdict. Others are asked to probe than
//     were, so that it may take longer, and be the statistic's. The recording of the
//     sidecar before the application, if there is one, is worth having: what it knows
//     first-hand does not hang on who was asked.
//   - The way back cannot be compared step by step: how many test requests go to whom is
//     the table's dice. That a fault is over is seen, and that it is not.
//
// After it, an endpoint that was really out has no traffic that
// could speak of it, and one that was really in goes on to fail users who under the
// other policy would have been elsewhere.
package replay
