package replay

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/registry"
	"github.com/overhear-mesh/overhear/xds/report"
)

// Policy is what is to be tried.
type Policy struct {
	// Mesh has the services with their policies and endpoints.
	Mesh *registry.Mesh
	// Merge is what holds for the fleet as a whole.
	Merge merge.Config
	// Seed of the table's dice. That of a live control plane is in its log.
	Seed uint64
}

// seqStep makes room between the numbers of two reports for those of the answers that
// stand-ins give.
const seqStep = 1024

// player replays recordings under one policy.
type player struct {
	recordings *Recordings
	table      *merge.Table
	tape       *tape
	now        time.Duration
	stepAt     time.Duration

	lives    map[string]*life
	out      Outcome
	believed *believed
	standins
}

// life is an incarnation of a sidecar as far as it has been played.
type life struct {
	merge.Reporter
	seq       uint64 // that the table knows
	lhm       int
	continues bool // an earlier segment of it was played
}

// Replay says what a policy would have done.
func (r *Recordings) Replay(policy Policy) (out *Outcome, err error) {
	p := &player{
		recordings: r, table: merge.NewTable(policy.Merge, policy.Seed), lives: map[string]*life{},
		out:      Outcome{Sidecars: r.Sidecars, Problems: r.Problems, Repeats: r.Repeats, Changes: []Change{}, Refused: map[merge.Refusal]int{}},
		believed: newBelieved(), standins: newStandins(),
	}
	p.tell(policy.Mesh)
	if p.tape, err = r.open(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.tape.close()) }()
	first, ok := p.tape.peek()
	if !ok {
		return nil, errors.New("nothing was recorded")
	}
	p.now, p.stepAt = first, first
	for {
		more, err := p.turn()
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
	}
	p.step()
	p.out.From, p.out.To = r.wall(first), r.wall(p.now)
	p.out.Held = p.believed.list()
	p.out.Endpoints = endpoints(p.out.Changes, p.out.Held, p.believed.alone)
	return &p.out, nil
}

// wall is an instant of the table's clock for people.
func (r *Recordings) wall(at time.Duration) time.Time { return r.epoch.Add(at) }

// tell tells the table which endpoints there are, those that only the recordings name
// included. All are there from the start: when they came and went is not recorded.
func (p *player) tell(mesh *registry.Mesh) {
	listed := map[merge.Key]bool{}
	services := map[string][]merge.Endpoint{}
	policies := map[string]merge.Policy{}
	for i := range mesh.Services {
		s := &mesh.Services[i]
		policies[s.Name] = s.Policy()
		services[s.Name] = nil
		for _, e := range s.Endpoints {
			k := merge.Key{Service: s.Name, Instance: e.ID()}
			listed[k] = true
			services[s.Name] = append(services[s.Name], merge.Endpoint{
				Key: k, Zone: e.Zone, Node: e.Node, Priority: e.Priority, Weight: e.Weight,
				Draining: e.Draining, Inbound: e.Inbound, Labels: e.Labels,
			})
		}
	}
	for _, k := range p.recordings.keys {
		if listed[k] {
			continue
		}
		p.out.Unknown = append(p.out.Unknown, k)
		services[k.Service] = append(services[k.Service], merge.Endpoint{Key: k, Weight: 1})
	}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		endpoints := services[name]
		policy, ok := policies[name]
		if !ok {
			s := registry.NewService(name)
			if mesh.Detection != nil {
				s.Detection = *mesh.Detection
			}
			policy = s.Policy()
		}
		p.out.Judged += len(endpoints)
		p.table.SetService(name, policy, endpoints, headStart)
	}
}

// turn does what comes next; false: the record is at its end.
func (p *player) turn() (more bool, err error) {
	if err := p.tape.fill(p.now); err != nil {
		return false, err
	}
	frame, ok := p.tape.peek()
	if !ok {
		return false, nil
	}
	answer := p.due()
	switch at := min(frame, answer, p.stepAt); at {
	case frame:
		p.now = max(p.now, frame)
		if err := p.tape.fill(p.now); err != nil {
			return false, err
		}
		p.play(p.tape.take())
	case answer:
		p.now = max(p.now, answer)
		p.answer()
	default:
		p.now = max(p.now, p.stepAt)
		p.step()
	}
	p.tape.sweep(p.now)
	return true, nil
}

// step lets the table decide.
func (p *player) step() {
	r := p.table.Step(p.now)
	p.stepAt = max(r.Next, p.now+time.Millisecond)
	for _, c := range r.Changes {
		v := c.Verdict
		p.out.Changes = append(p.out.Changes, Change{
			Time: p.recordings.wall(c.At), Key: v.Key, Scope: v.Scope, From: c.From, To: c.To, Rule: v.Rule,
			HeldBack: c.Refused, Reason: v.Explain.Reason, N: v.N,
		})
	}
	p.asked(r)
}

// soon has the table decide at once.
func (p *player) soon() { p.stepAt = min(p.stepAt, p.now) }

// play takes a frame in.
func (p *player) play(e entry) {
	if e.Header != nil {
		p.join(e.Header)
		return
	}
	l := p.lives[e.reporter.ID]
	if l == nil || l.Incarnation != e.reporter.Incarnation {
		p.out.Refused[merge.WrongIncarnation]++
		return
	}
	for _, h := range e.Held {
		switch {
		case h.Fleet:
			p.believed.note(l.ID, h.Key, h.To, h.Rule, h.Epoch, p.recordings.wall(h.At))
		case h.To.Out() && !h.From.Out():
			p.believed.alone[h.Key]++
		}
	}
	if e.State && l.continues {
		return // it was told before
	}
	for _, r := range e.Message.Probes {
		p.probed(l, r)
	}
	for _, a := range e.Message.Polls {
		p.apply(l, merge.Report{Seq: a.Seq, At: a.At, LHM: l.lhm, Cells: []merge.Cell{counted(a)}})
	}
	for _, s := range e.Message.Probations {
		p.shared(l, s)
	}
	if r := e.Message.Report; r != nil {
		l.lhm = r.LHM
		p.apply(l, *r)
		for i := range r.Cells {
			p.ordinary(l, &r.Cells[i])
		}
	}
}

// counted is the answer to a poll as a report would have it.
func counted(a merge.PollAnswer) merge.Cell {
	c := a.Cell
	if a.Then.At >= 0 && a.Then != (merge.Point{}) {
		c.History = []merge.Point{a.Then}
	}
	return c
}

// apply gives the table a report.
func (p *player) apply(l *life, r merge.Report) {
	l.seq = max(l.seq, r.Seq*seqStep)
	r.Reporter, r.Incarnation, r.Seq, r.Received = l.ID, l.Incarnation, r.Seq*seqStep, p.now
	r.At = min(r.At, p.now)
	done := p.table.Apply(r, p.now)
	for why, n := range done.Refused {
		p.out.Refused[why] += n
	}
	if done.Urgent {
		p.soon()
	}
}

// join begins a segment.
func (p *player) join(h *report.RecordHeader) {
	id := h.Reporter.ID
	if l := p.lives[id]; l != nil && l.Incarnation == h.Reporter.Incarnation {
		l.continues = true
		return
	}
	var services []string
	for _, s := range p.recordings.Sidecars {
		if s.ID == id {
			services = slices.Sorted(maps.Keys(s.services))
		}
	}
	if err := p.table.Join(h.Reporter, services, p.now); err != nil {
		// Two sidecars of one name, or wall clocks that went back over a restart.
		p.out.Refused[merge.WrongIncarnation]++
		return
	}
	p.lives[id] = &life{Reporter: h.Reporter}
	for _, v := range h.Held {
		if v.State != outlier.In {
			p.believed.note(id, v.Key, v.State, v.Rule, v.Epoch, p.recordings.wall(p.now))
		}
	}
	p.soon()
}
