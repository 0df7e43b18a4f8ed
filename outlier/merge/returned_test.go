package merge

import (
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// successor stops the table's owner for a while and starts another over what it has
// kept. Reporters are for the caller to bring back.
func (f *fleet) successor(away time.Duration) (kept []Verdict) {
	kept = f.table.Verdicts()
	f.stopped = true
	f.run(away)
	f.stopped = false
	f.table = NewTable(DefaultConfig(), 99)
	f.table.Restore(kept, f.now)
	f.setService()
	return kept
}

// anotherOwner is a successor to which reporters are back before it decides anything, but
// tell what they have counted in all their lives only after its first decisions.
func (f *fleet) anotherOwner(away time.Duration) {
	f.successor(away)
	for _, c := range f.callers {
		c.join()
		for _, cell := range c.cells {
			cell.reported = outlier.Counts{}
		}
		f.at(f.now+20*ms, func() { c.report(true) })
	}
	f.stepAt = f.now
}

// What reporters had counted before another owner gave them a share is no result of its
// test: neither what callers have seen fail, nor what sidecars without callers have
// counted of their probes.
func TestWhatWasCountedBeforeARestartIsNoResultOfAProbation(t *testing.T) {
	for _, rate := range []float64{1, 10, 50} {
		for seed := range uint64(5) {
			f := newFleet(t, mesh{callers: 3, bystanders: 3, endpoints: 3, zones: twoZones, rate: rate, inbound: true, seed: seed})
			f.run(15 * time.Second)
			f.targets[1].fault = always(crashed)
			if _, ok := f.ejected(1, 15*time.Second); !ok {
				t.Fatalf("%g/s, seed %d: a crash, and it is %s", rate, seed, f.state(1))
			}
			f.run(4 * time.Second)
			f.targets[1].fault = always(works)
			if !f.until(f.now+time.Minute, func() bool { return f.state(1) == outlier.Probation }) {
				t.Fatalf("%g/s, seed %d: well again, and it is %s, want probation", rate, seed, f.state(1))
			}
			// A test request of before fails, too.
			k := f.targets[1].Key
			trial := func() *Trial {
				x, _ := f.table.Explain(k, f.now)
				return x.Trial
			}
			f.targets[1].fault = always(errs)
			if !f.until(f.now+time.Minute, func() bool { return trial() != nil && trial().Counts.K > 0 }) {
				t.Fatalf("%g/s, seed %d: no test request has failed", rate, seed)
			}
			f.targets[1].fault = always(works)
			failed := false
			for _, c := range f.callers {
				failed = failed || c.bystander && c.cells[f.targets[1].Key].counts.Conn > 0
			}
			seen := len(f.changes)
			f.anotherOwner(300 * ms)
			f.until(f.now+5*time.Minute, func() bool {
				if x := trial(); x != nil && x.Counts.K > 0 {
					t.Errorf("%g/s, seed %d: %d of %d test requests failed, want none: %+v", rate, seed, x.Counts.K, x.Counts.N, x.Reporters)
					return true
				}
				return f.table.endpoints[k].fleet.state == outlier.In
			})
			for _, ch := range f.changes[seen:] {
				if ch.To == outlier.Ejected {
					t.Errorf("%g/s, seed %d: sent back though it is well: %s", rate, seed, describe([]Change{ch}))
				}
			}
			if got := f.table.endpoints[k].fleet.state; got != outlier.In {
				t.Errorf("%g/s, seed %d: well for five minutes, and it is %s, want in", rate, seed, got)
			}
			if !failed {
				t.Errorf("%g/s, seed %d: no probe of a sidecar without callers has failed: the test tests half of it", rate, seed)
			}
		}
	}
}

// Requests that fail after the other owner has given its shares count.
func TestAnEndpointThatIsStillBadFailsAProbationThatAnotherOwnerGoesOnWith(t *testing.T) {
	f := newFleet(t, mesh{callers: 3, bystanders: 3, endpoints: 3, zones: twoZones, rate: 30, inbound: true, seed: 7})
	f.run(15 * time.Second)
	f.targets[1].fault = always(errs)
	if !f.until(f.now+30*time.Second, func() bool { return f.state(1) == outlier.Probation }) {
		t.Fatalf("it answers probes, and it is %s, want probation", f.state(1))
	}
	f.anotherOwner(300 * ms)
	if _, ok := f.ejected(1, 20*time.Second); !ok {
		t.Errorf("all of its test requests fail, and it is %s, want ejected", f.state(1))
	}
}
