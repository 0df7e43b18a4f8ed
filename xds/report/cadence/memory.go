package cadence

import (
	"maps"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// Observation is what one detector knows of a service, all of one moment.
type Observation struct {
	Service  string
	Evidence []outlier.Evidence
	Summary  outlier.Summary
	Answers  []merge.PollAnswer
}

// Observe asks a detector. The answers are those to polls of the service's endpoints.
func Observe(d *outlier.Detector, service string, polls []merge.Poll, now time.Duration) Observation {
	o := Observation{Service: service, Evidence: d.Evidence(now), Summary: d.Summary(now)}
	for _, p := range polls {
		then, ok := d.History(p.Key.Instance, p.At)
		if !ok {
			then.At = outlier.Never
		}
		o.Answers = append(o.Answers, merge.PollAnswer{ID: p.ID, Cell: o.cell(p.Key), Then: then})
	}
	return o
}

// cell is what there is to tell of an endpoint, even if that is nothing.
func (o *Observation) cell(k merge.Key) merge.Cell {
	i := slices.IndexFunc(o.Evidence, func(e outlier.Evidence) bool { return e.ID == k.Instance })
	if i < 0 {
		return Cell(k, &outlier.Evidence{
			LastOK: outlier.Never, LastOKStart: outlier.Never, LastHard: outlier.Never, LastHardStart: outlier.Never,
		})
	}
	return Cell(k, &o.Evidence[i])
}

// Memory is what the control plane knows of one service from this reporter. The zero value
// is that of a new stream: nothing.
type Memory struct {
	totals Totals
	told   map[string]*Told // by instance
}

// Weigh adds to a report what is worth telling of the service. The turn learns whether that
// is a reason to report, and when to look again.
func (m *Memory) Weigh(turn *Turn, topic *Topic, o *Observation, asked *Asked, r *merge.Report) {
	r.LHM = max(r.LHM, o.Summary.LHM)
	if t, tell := m.totals.Weigh(turn, o.Service, &o.Summary); tell {
		r.Clusters = append(r.Clusters, t)
	}
	for i := range o.Evidence {
		e := &o.Evidence[i]
		k := merge.Key{Service: o.Service, Instance: e.ID}
		if c := Cell(k, e); m.of(e.ID).Weigh(turn, topic, e, &c, asked.watched[k]) {
			r.Cells = append(r.Cells, c)
		}
	}
	if turn.Summary {
		maps.DeleteFunc(m.told, func(_ string, t *Told) bool { return t.Gone(turn) })
	}
}

func (m *Memory) of(instance string) *Told {
	t := m.told[instance]
	if t == nil {
		if m.told == nil {
			m.told = map[string]*Told{}
		}
		t = new(Told)
		m.told[instance] = t
	}
	return t
}

// Sent notes that a cell of the service was told.
func (m *Memory) Sent(c merge.Cell, now time.Duration) { m.told[c.Key.Instance].Sent(c, now) }
