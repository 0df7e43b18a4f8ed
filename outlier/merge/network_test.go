package merge

import (
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// A network that delays each report by up to a second, lets it overtake others, of other
// streams and of its own, and delivers some twice. late makes all of one caller's news
// look newer than they are: its clock is mapped by what arrives, so that a delay that
// never falls is taken for a difference of clocks.
func badNetwork(f *fleet, late bool) {
	f.tamper = func(rep Report) []Report {
		delay := time.Duration(f.rng.Int64N(int64(time.Second)))
		rep.Jitter = 500 * ms
		if late && rep.Reporter == f.callers[0].ID {
			rep = shifted(rep, time.Second)
			delay, rep.Jitter = time.Second, 0
		}
		deliver := func(after time.Duration) {
			f.at(f.now+after, func() {
				if f.stopped {
					return
				}
				f.reports++
				rep.Received = f.now
				if f.table.Apply(rep, f.now).Urgent {
					f.stepAt = f.now
				}
			})
		}
		deliver(delay)
		if f.rng.IntN(4) == 0 {
			deliver(delay + time.Duration(f.rng.Int64N(int64(3*time.Second))))
		}
		return nil
	}
}

// shifted moves all instants of a report.
func shifted(rep Report, by time.Duration) Report {
	move := func(at time.Duration) time.Duration {
		if at < 0 {
			return at
		}
		return at + by
	}
	rep.At += by
	cells := make([]Cell, len(rep.Cells))
	for i, c := range rep.Cells {
		c.LastOK, c.LastOKStart = move(c.LastOK), move(c.LastOKStart)
		c.LastHard, c.LastHardStart = move(c.LastHard), move(c.LastHardStart)
		history := make([]Point, len(c.History))
		for j, p := range c.History {
			p.At = move(p.At)
			history[j] = p
		}
		c.History = history
		cells[i] = c
	}
	rep.Cells = cells
	return rep
}

func TestReportsThatAreLateTwiceAndOutOfOrderTakeNobodyOut(t *testing.T) {
	for _, base := range []float64{0, 0.01, 0.03} {
		for seed := range uint64(3) {
			f := newFleet(t, mesh{callers: 6, endpoints: 6, zones: twoZones, rate: 50, base: base, seed: seed + 1})
			badNetwork(f, seed > 0)
			f.run(90 * time.Second)
			if v := f.verdicts(); len(v) != 0 {
				t.Errorf("base %v, seed %d: got %s\nwant no verdict", base, seed, describe(v))
			}
		}
	}
}

// The owner's clock is monotonic. Should it jump ahead, as one may while the machine
// sleeps, nobody is out for it, and what fails afterwards is found. Should it go back,
// time stands still until it is where it was: nobody is taken out, nor let in.
func TestAClockOfTheOwnerThatJumpsTakesNobodyOut(t *testing.T) {
	for name, jump := range map[string]time.Duration{
		"ahead by two hours": 2 * time.Hour, "ahead by ten seconds": 10 * time.Second,
		"back by two hours": -2 * time.Hour, "back by ten seconds": -10 * time.Second,
	} {
		ids, keys := numbered("r", 4), keysOf(5)
		table := smallTable(t, ids, keys)
		now, seq := 24*time.Hour, uint64(0)
		counts := map[Key]outlier.Counts{}
		var out []Change
		run := func(d time.Duration, bad Key) {
			for end := now + d; now < end; now += 50 * ms {
				seq++
				for _, k := range keys {
					c := counts[k]
					if c.N++; k == bad {
						c.Server++
					}
					counts[k] = c
				}
				for _, id := range ids {
					rep := Report{Reporter: id, Seq: seq, At: now, Received: now}
					for _, k := range keys {
						c := Cell{Key: k, Counts: counts[k], LastOK: now - ms, LastOKStart: now - 2*ms, LastHard: -1, LastHardStart: -1}
						if k == bad {
							c.LastOK, c.LastOKStart, c.Score = -1, -1, 1000
						}
						rep.Cells = append(rep.Cells, c)
					}
					table.Apply(rep, now)
				}
				for _, c := range table.Step(now).Changes {
					if c.Refused == "" && c.To.Out() {
						out = append(out, c)
					}
				}
			}
		}
		run(20*time.Second, Key{})
		now += jump
		run(30*time.Second, Key{})
		if len(out) > 0 {
			t.Errorf("%s: %s", name, describe(out))
		}
		run(5*time.Second, keys[2])
		if jump > 0 && (len(out) == 0 || out[0].Verdict.Key != keys[2]) {
			t.Errorf("%s: an endpoint that fails every request afterwards is not found: %s", name, describe(out))
		}
	}
}

func TestFaultsAreFoundThoughReportsAreLateTwiceAndOutOfOrder(t *testing.T) {
	for name, tc := range map[string]struct {
		fault  effect
		share  float64
		within time.Duration
	}{
		"crash":          {crashed, 1, 4 * time.Second},
		"errors of half": {errs, 0.5, 6 * time.Second},
	} {
		for seed := range uint64(3) {
			f := newFleet(t, mesh{callers: 6, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, seed: seed + 1})
			badNetwork(f, seed > 0)
			f.run(15 * time.Second)
			f.targets[2].fault = func(*caller, time.Duration) effect {
				if f.rng.Float64() < tc.share {
					return tc.fault
				}
				return works
			}
			if took, ok := f.ejected(2, tc.within); !ok {
				t.Errorf("%s, seed %d: not ejected within %v: %v", name, seed, tc.within, f.events)
				continue
			} else {
				t.Logf("%s, seed %d: %v", name, seed, took)
			}
			f.targets[2].fault = always(works)
			back := func() bool { return f.table.endpoints[f.targets[2].Key].fleet.state == outlier.In }
			if !f.until(f.now+90*time.Second, back) {
				t.Errorf("%s, seed %d: it is still out 90s after the fault: %s", name, seed, describe(f.changes))
			}
			if v := f.verdicts(outlier.Ejected); len(v) > 4 {
				t.Errorf("%s, seed %d: ejected %d times: %s", name, seed, len(v), describe(v))
			}
			for _, c := range f.verdicts(outlier.Ejected) {
				if c.Verdict.Key != f.targets[2].Key {
					t.Errorf("%s, seed %d: %s is ejected as well", name, seed, c.Verdict.Key)
				}
			}
		}
	}
}
