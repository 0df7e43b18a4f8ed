package mesh

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/sim/world"
	"github.com/overhear-mesh/overhear/xds/registry"
)

// settle is how long a mesh runs before instant 0 of a scenario: its warm-up is
// measured for a statistic that learns for a minute, and that is long where everything
// is real.
const settle = 10 * time.Second

// Playable says why a scenario of the fast simulator cannot be played with whole
// meshes; nil: it can.
func Playable(s *world.Scenario) error {
	switch {
	case s.Sigma > 0 && s.Latency > 10*time.Millisecond:
		return fmt.Errorf("backends here have one latency")
	case s.Ping == "off", s.Routes > 1, s.Patience > 0, s.Backups > 0, s.Keys > 0, s.PreferZone, s.Balance != 0, s.ReportDelay+s.ReportJitter > 0, len(s.Labels) > 0:
		return fmt.Errorf("its settings have no counterpart")
	case s.Rate*float64(s.Endpoints) > 1000 || s.Callers > 20:
		return fmt.Errorf("too large: more than 1000 attempts/s or 20 callers")
	}
	for _, step := range s.Steps {
		if err := playable(step); err != nil {
			return err
		}
	}
	return nil
}

func playable(step world.Step) error {
	f := step.Fault
	switch f.Kind {
	case world.Heal, world.ControlDown, world.ControlUp, world.Unreachable, world.Blackhole:
		return nil
	case world.Crash, world.Listener, world.Hang, world.Errors, world.Overload, world.Limit, world.Pause:
		if step.From == nil {
			return nil
		}
	case world.Stall, world.Cut, world.Slow:
		if step.From == nil && f.Share == 1 {
			return nil
		}
	}
	return fmt.Errorf("%v, of a share of the answers or of a way, has no counterpart", f.Kind)
}

// Play runs a scenario of the fast simulator with a whole mesh, in the bubble of t, and
// measures what can be measured of it, under the same names.
func Play(t testing.TB, s *world.Scenario, seed uint64) map[string]float64 {
	t.Helper()
	m := Start(t, Config{
		Callers: s.Callers, Endpoints: s.Endpoints, Zones: s.Zones, Rate: s.Rate, BaseErrors: s.Base, Posts: s.Unsafe, Inbound: s.Inbound,
		Work: s.Latency, Near: s.Near, Far: s.Far, Alone: !s.Control, Seed: seed,
		Node: func(caller int) string { return fmt.Sprintf("host-%d", s.Node(caller)) },
		Policy: func(r *registry.Service) {
			r.Detection.LeaveOut = s.LeaveOut
			r.Ping.Kind = merge.PingKind(s.Ping)
		},
	})
	m.Wait(min(s.Warmup, settle))
	zero := m.Now()
	p := play{m: m, s: s}
	for _, step := range s.Steps {
		m.Wait(zero + step.At - m.Now())
		p.step(step)
	}
	m.Wait(zero + s.Length - m.Now())
	return p.figures(zero)
}

// play is a story under way.
type play struct {
	m        *Mesh
	s        *world.Scenario
	culprits []int
	struck   time.Duration // the first fault of a culprit
}

func (p *play) step(step world.Step) {
	switch step.Fault.Kind {
	case world.ControlDown:
		p.m.KillControl()
		return
	case world.ControlUp:
		p.m.StartControlOnly()
		return
	}
	if step.From != nil {
		for _, c := range step.From {
			for _, e := range step.To {
				p.way(p.m.Callers[c].IP, p.m.Endpoints[e].IP, step.Fault.Kind)
			}
		}
		return
	}
	for _, e := range step.To {
		p.strike(p.m.Endpoints[e], step.Fault)
		bad := slices.Contains([]world.FaultKind{world.Crash, world.Hang, world.Blackhole, world.Unreachable, world.Errors, world.Stall, world.Cut}, step.Fault.Kind)
		if bad && len(step.To) < len(p.m.Endpoints) && !slices.Contains(p.culprits, e) {
			if p.culprits == nil {
				p.struck = p.m.Now()
			}
			p.culprits = append(p.culprits, e)
		}
	}
}

// way breaks the way between two hosts, or heals it.
func (p *play) way(from, to string, kind world.FaultKind) {
	net := p.m.Net
	switch kind {
	case world.Unreachable:
		net.Reject(from, to)
	case world.Blackhole:
		net.Cut(from, to)
		net.Cut(to, from)
	default:
		net.Heal(from, to)
		net.Heal(to, from)
	}
}

func (p *play) strike(e *Endpoint, f world.Fault) {
	p.m.t.Helper()
	var fault fakeupstream.Fault
	switch f.Kind {
	case world.Unreachable, world.Blackhole:
		p.way("*", e.IP, f.Kind)
		return
	case world.Crash:
		fault = fakeupstream.Crash()
	case world.Listener:
		fault = fakeupstream.Deaf()
	case world.Hang:
		fault = fakeupstream.Hang()
	case world.Errors:
		fault = fakeupstream.Errors(f.Share + (1-f.Share)*p.s.Base)
		fault.SparePings = true // as in the fast simulator: pings succeed, requests fail
	case world.Overload:
		fault = fakeupstream.Fault{ErrorRate: f.Share, Status: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"1"}}}
	case world.Limit:
		fault = fakeupstream.Fault{ErrorRate: f.Share, Status: http.StatusTooManyRequests}
	case world.Pause:
		fault = fakeupstream.Pauses(f.Every, f.For)
	case world.Stall:
		fault = fakeupstream.Fault{Body: fakeupstream.Stalled}
	case world.Cut:
		fault = fakeupstream.Fault{Body: fakeupstream.Cut}
	case world.Slow:
		fault = fakeupstream.Slow(f.Factor)
	default:
		p.way("*", e.IP, world.Heal)
		if err := e.Heal(); err != nil {
			p.m.t.Error(err)
		}
		return
	}
	if err := e.Set(fault); err != nil {
		p.m.t.Error(err)
	}
}

// figures are those of the fast simulator that a mesh's ledger can tell.
func (p *play) figures(zero time.Duration) map[string]float64 {
	m, end := p.m, p.m.Now()
	f := map[string]float64{}
	requests := m.Requests(func(r Request) bool { return r.At >= zero })
	good := 0
	for _, r := range requests {
		if !r.Failed() {
			good++
		}
	}
	f["goodput"] = float64(good) / float64(max(1, len(requests)))
	f["false-outs"] = float64(len(m.FalseOuts(zero, p.culprits...)))
	if p.s.Control && m.control != nil {
		f["false-fleet"] = float64(len(m.Verdicts(func(v Verdict) bool {
			return v.At >= zero && v.To == "ejected" && !slices.Contains(p.culprits, v.Endpoint)
		})))
	}
	if p.culprits == nil {
		return f
	}
	first, off, found := time.Duration(-1), time.Duration(0), 1.0
	for _, e := range p.culprits {
		r := m.Removal(e, p.struck, end)
		if r.First >= 0 && (first < 0 || r.First < first) {
			first = r.First
		}
		if !r.All {
			found = 0
		}
		off = max(off, r.Off)
		f["failed"] += float64(r.Lost)
		on := m.Attempts(func(a Attempt) bool { return a.Endpoint == e && a.At >= p.struck })
		f["harm"] += float64(r.Attempts) - p.s.Base*float64(len(on))
	}
	f["found"] = found
	if found == 1 {
		f["off-fault"] = (off - p.struck).Seconds()
		f["off"] = 0 // all were off before any attempt failed
		if first >= 0 {
			f["off"] = max(0, (off - first).Seconds())
		}
	}
	return f
}
