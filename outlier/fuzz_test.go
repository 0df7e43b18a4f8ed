package outlier

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// FuzzStep drives one detector with any sequence of attempts, probes, pings,
// verdicts and memberships, and checks after each what must always hold.
func FuzzStep(f *testing.F) {
	for seed := range byte(8) {
		rng := rand.New(rand.NewPCG(uint64(seed), 0))
		script := make([]byte, 600)
		for i := range script {
			script[i] = byte(rng.Uint32())
		}
		script[0] = seed * 37
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) == 0 {
			return
		}
		newFuzzed(script[0]).play(t, script[1:min(len(script), 2000)])
	})
}

// Longer stories than the fuzzer's seeds, of fewer kinds of event, so that
// endpoints live long enough to be judged.
func TestWhateverHappensTheInvariantsHold(t *testing.T) {
	ejected := 0
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 9))
		script := make([]byte, 6000)
		for i := range script {
			script[i] = byte(rng.Uint32())
			if i%2 == 0 && rng.IntN(10) > 0 {
				script[i] %= 9 // attempts and time
			}
		}
		z := newFuzzed(byte(rng.Uint32()))
		z.play(t, script)
		ejected += z.ejected
	}
	if ejected < 50 {
		t.Errorf("only %d ejections in all: these stories prove nothing", ejected)
	}
}

type fuzzed struct {
	cfg     Config
	d       *Detector
	now     time.Duration
	members []Member
	open    []fuzzedAttempt
	probes  []Probe
	out     map[string]bool // as the changes tell it
	ejected int
	told    map[*Endpoint]Counts // what was reported last
}

type fuzzedAttempt struct {
	e *Endpoint
	a Attempt
}

func newFuzzed(b byte) *fuzzed {
	z := &fuzzed{cfg: DefaultConfig(), now: time.Second, out: make(map[string]bool), told: make(map[*Endpoint]Counts)}
	z.cfg.MaxOut = []float64{0.5, 0.1, 1, 0}[b%4]
	z.cfg.Panic = []float64{0.5, 0, 1}[b/4%3]
	z.cfg.AlwaysEjectOne = b%16 > 7
	if b%5 == 0 {
		z.cfg.RunAny, z.cfg.RunGateway, z.cfg.RunLocal = int(b%7), int(b%3), int(b%2)
		z.cfg.RunAnyEnforced, z.cfg.RunLocalEnforced = 0.5, float64(b%2)
	}
	z.d = New(z.cfg, rand.New(rand.NewPCG(uint64(b), 5)))
	for i := range 1 + int(b)%7 {
		z.members = append(z.members, Member{ID: fmt.Sprintf("e%d", i), Priority: uint32(i) / 5})
	}
	z.d.SetMembers(z.members, z.now)
	z.d.SetHashed(b%6 == 0, int(b)%20)
	return z
}

func (z *fuzzed) play(t *testing.T, script []byte) {
	for i := 0; i+1 < len(script); i += 2 {
		z.event(script[i], script[i+1])
		before := z.taken()
		r := z.d.Step(z.now)
		z.check(t, r, before)
		z.probes = append(z.probes, r.Probes...)
		z.now += time.Millisecond
	}
}

func (z *fuzzed) event(kind, arg byte) {
	id := ""
	if len(z.members) > 0 {
		id = z.members[int(arg)%len(z.members)].ID
	}
	e := z.d.Endpoint(id)
	switch kind % 16 {
	case 0, 1, 2: // a burst of failures, one endpoint more than others
		if e == nil {
			return
		}
		for range arg % 16 {
			a := e.Start(z.now, true)
			e.End(&a, Outcome{Class: Conn + Class(kind%3), Now: z.now, Conn: uint32(arg), Level: Level(arg % 4), Route: uint16(arg % 5), Gateway: arg%2 == 0})
		}
	case 3, 4:
		if e == nil {
			return
		}
		for range arg {
			a := e.StartOn(uint16(arg%7), z.now, true)
			e.Headers(&a, z.now)
			e.End(&a, Outcome{Class: OK, Now: z.now, Conn: uint32(arg), Route: uint16(arg % 7)})
		}
	case 5:
		if e != nil && len(z.open) < 200 {
			z.open = append(z.open, fuzzedAttempt{e, e.StartOn(uint16(arg%7), z.now, arg%5 > 0)})
		}
	case 6:
		if len(z.open) > 0 {
			i := int(arg) % len(z.open)
			o := &z.open[i]
			o.e.End(&o.a, Outcome{Class: Class(arg % 7), Now: z.now, Route: uint16(arg % 7)})
			z.open = slices.Delete(z.open, i, i+1)
		}
	case 7, 8: // time passes, up to 2.5 s
		z.now += time.Duration(arg) * 10 * time.Millisecond
	case 9:
		if len(z.probes) > 0 {
			p := z.probes[0]
			z.probes = z.probes[1:]
			z.d.Probed(p.ID, p.Level, ProbeResult(arg%8), z.now-p.Timeout/2, z.now)
		}
	case 10:
		z.d.Probed(id, Level(arg%4), ProbeResult(arg/4%8), z.now, z.now)
	case 11:
		z.d.Pinged(id, arg%3 == 0, ProbeResult(arg%8), z.now)
		z.d.Idle(z.now)
	case 12:
		z.d.Fleet(id, Verdict{State: State(arg / 8 % 6), Epoch: uint64(arg % 4), Rule: Rule(arg % 9)}, z.now)
	case 13:
		z.d.Share(id, uint64(arg%4), float64(arg)/200, z.now+time.Second)
	case 14:
		if arg%2 == 0 {
			z.d.CentralGone(z.now)
		} else {
			z.d.CentralBack(z.now)
		}
	case 15:
		z.members = z.members[:0:0]
		for i := range int(arg) % 8 {
			z.members = append(z.members, Member{
				ID: fmt.Sprintf("e%d", (i+int(arg)/8)%9), Priority: uint32(i) / 5,
				Draining: arg%5 == 0 && i%2 == 0, New: arg%3 == 0,
			})
		}
		z.d.SetMembers(z.members, z.now)
	}
}

// taken is who is out by local belief, before a Step.
func (z *fuzzed) taken() map[string]bool {
	out := make(map[string]bool)
	for _, m := range z.d.members {
		if m.record.state.Out() {
			out[m.ID] = true
		}
	}
	return out
}

func (z *fuzzed) check(t *testing.T, r Result, before map[string]bool) {
	t.Helper()
	if r.Next <= z.now {
		t.Fatalf("at %v Step wants the next one at %v", z.now, r.Next)
	}
	for _, p := range r.Probes {
		if z.d.byID[p.ID] == nil {
			t.Fatalf("a probe of %s, which is no member", p.ID)
		}
	}
	hard := make(map[string]bool)
	for _, c := range r.Changes {
		if c.Refused == "" && c.To == Ejected && !c.Fleet {
			z.ejected++
			hard[c.ID] = c.Rule == RuleHard || c.From.Out()
		}
	}
	// Caps: whoever goes out in this Step must have had room.
	for _, g := range z.d.groups {
		n, out, soft := 0, 0, false
		for _, m := range g.members {
			if m.Draining {
				continue
			}
			n++
			if m.out() {
				out++
			}
			if m.record.state.Out() && !before[m.ID] && !hard[m.ID] && !m.fleet.state().Out() {
				soft = true
			}
		}
		limit := z.cfg.Cap(n)
		if soft && out > limit && !g.takenOver() {
			t.Fatalf("at %v %d of %d are out, cap %d", z.now, out, n, limit)
		}
	}
	view := z.d.View()
	if len(view) != len(z.d.members) {
		t.Fatalf("%d admissions for %d members", len(view), len(z.d.members))
	}
	usable := 0
	for i, a := range view {
		if a.ID != z.d.members[i].ID {
			t.Fatalf("admission %d is of %s, want %s", i, a.ID, z.d.members[i].ID)
		}
		if !(a.Weight >= 0 && a.Weight <= 1) || a.Trickle < 0 {
			t.Fatalf("%s is admitted as %+v", a.ID, a)
		}
		if a.Weight > 0 && (!a.State.Out() || a.Panic) {
			usable++
		}
	}
	if len(view) > 0 && usable == 0 {
		t.Fatalf("at %v nothing is usable: %+v", z.now, view)
	}
	// State is nowhere but with the members.
	if len(z.d.byID) != len(z.d.members) || len(z.d.bySlot) != len(z.d.members) {
		t.Fatalf("%d members, %d ids, %d slots", len(z.d.members), len(z.d.byID), len(z.d.bySlot))
	}
	for _, m := range z.d.members {
		for n := range snapshots {
			c, _ := m.snap(n)
			if in := m.now.Sub(c).Tally(); m.firstSnap < z.d.snapped-snapshots && (in.K < 0 || in.K > in.N) {
				t.Fatalf("%s: %d failures in %d attempts of a window", m.ID, in.K, in.N)
			}
		}
	}
	for _, e := range z.d.Evidence(z.now) {
		if e.Counts.K() > e.Counts.N {
			t.Fatalf("%s: %d failures in %d attempts", e.ID, e.Counts.K(), e.Counts.N)
		}
		ep := z.d.Endpoint(e.ID)
		since := e.Counts.Sub(z.told[ep])
		if int32(since.N) < 0 || int32(since.Server) < 0 || since.K() > since.N {
			t.Fatalf("%s: told %+v after %+v", e.ID, e.Counts, z.told[ep])
		}
		z.told[ep] = e.Counts
		for i, p := range e.History {
			if int32(e.Counts.N-p.N) < 0 || int32(e.Counts.K()-p.K) < 0 || i > 0 && int32(p.K-e.History[i-1].K) < 0 {
				t.Fatalf("%s: told %+v, history %+v", e.ID, e.Counts, e.History)
			}
		}
	}
	z.d.Summary(z.now)
}

// takenOver says that a member of the group is out because the control plane,
// now gone, had taken it out: that is no removal of ours.
func (g *group) takenOver() bool {
	return slices.ContainsFunc(g.members, func(m *member) bool { return m.fleet.lapsed })
}
