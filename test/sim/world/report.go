package world

import (
	"slices"
	"strconv"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/report/cadence"
)

// reporter tells the control plane what a sidecar counts, by the schedule that the
// product's reports keep.
type reporter struct {
	s   *sidecar
	w   *World
	gen uint32
	at  time.Duration // of the pending timer
	seq uint64

	schedule cadence.Schedule
	topic    cadence.Topic
	told     []cadence.Told // by endpoint
	results  []probed
	polls    []merge.Poll
	watches  []time.Duration // by endpoint, until
	watching int
	trials   []trial
	totals   cadence.Totals
}

// probed is the answer to an order.
type probed struct {
	id merge.OrderID
	Answer
}

// trial is a share of which the outcomes count.
type trial struct {
	*cadence.Trial
	endpoint int
	id       string
}

// message is one on the stream.
type message struct {
	from       int
	built      time.Duration
	skew       time.Duration // of all instants in it
	report     *merge.Report
	probes     []probed
	polls      []merge.PollAnswer
	probations []probation
}

type probation struct {
	key    merge.Key
	epoch  uint64
	counts outlier.Counts
}

func newReporter(s *sidecar) reporter {
	n := s.w.Scenario.Endpoints
	return reporter{
		s: s, w: s.w, at: never, schedule: cadence.NewSchedule(cadence.DefaultConfig()),
		told: make([]cadence.Told, n), watches: make([]time.Duration, n),
	}
}

func (r *reporter) id() string { return "c" + strconv.Itoa(r.s.index) }

// hello begins a stream: everything is told anew.
func (r *reporter) hello() {
	clear(r.told)
	clear(r.watches)
	r.totals = cadence.Totals{}
	r.results, r.polls, r.watching = nil, nil, 0
	for _, t := range r.trials {
		t.Retell()
	}
	clear(r.s.orderOf)
	r.topic.Rename()
	r.schedule.Begin(r.id(), r.w.now)
	r.s.o.control.join(r.s.index)
	r.schedule.Wake(r.w.now)
	r.moved(true) // the timer has been idle
}

func (r *reporter) lost() {
	r.at = never
	r.gen++
}

// moved sets the timer anew if the time of the next report is sooner.
func (r *reporter) moved(sooner bool) {
	if !sooner || !r.s.connected {
		return
	}
	at := max(r.schedule.Next(), r.w.now)
	if at >= r.at {
		return
	}
	r.at = at
	r.gen++
	r.w.Timer(at, uint32(r.s.index)*timerKinds+timerReport, r.gen)
}

func (r *reporter) timer(gen uint32) {
	if gen != r.gen {
		return
	}
	r.at = never
	if r.schedule.Due(r.w.now) {
		r.build()
	}
}

// hear takes in how urgent a step found the news.
func (r *reporter) hear(u outlier.Urgency) { r.moved(r.schedule.Hear(&r.topic, u, r.w.now)) }

// result has an answer told at once.
func (r *reporter) result(p probed) {
	if !r.s.connected {
		return
	}
	r.results = append(r.results, p)
	r.moved(r.schedule.Wake(r.w.now))
}

// build makes the next message and sends it.
func (r *reporter) build() {
	now := r.w.now
	turn := r.schedule.Turn(now)
	m := &message{from: r.s.index, probes: r.results}
	r.results = nil
	if r.watching > 0 {
		r.watching = 0
		for i, until := range r.watches {
			if turn.Watched(until) {
				r.watching++
			} else {
				r.watches[i] = 0
			}
		}
	}
	r.countTrials(&turn, m)
	rep := &merge.Report{Reporter: r.id(), Incarnation: 1, At: now}
	if due, _ := turn.Due(&r.topic, r.watching > 0 || len(r.polls) > 0); due {
		r.weigh(&turn, m, rep)
		turn.Asked(&r.topic)
	}
	if turn.Tell {
		r.seq++
		rep.Seq = r.seq
		at := 0
		for i := range rep.Cells {
			for r.s.ids[at] != rep.Cells[i].Key.Instance {
				at++ // cells are in the order of the members
			}
			r.told[at].Sent(rep.Cells[i], now)
		}
		m.report = rep
	}
	for i := range m.polls {
		r.seq++
		m.polls[i].Seq = r.seq
	}
	turn.Answers = len(m.probes)+len(m.polls)+len(m.probations) > 0
	if turn.Tell || turn.Answers {
		r.w.Ledger.Reported()
		r.s.o.control.send(m)
	}
	r.moved(r.schedule.End(&turn))
}

// weigh asks the detector and chooses what is worth telling.
func (r *reporter) weigh(turn *cadence.Turn, m *message, rep *merge.Report) {
	now := r.w.now
	d := r.s.detector
	seen := cadence.Observe(d, service, r.polls, now)
	evidence := seen.Evidence
	r.s.wake() // who is asked steps
	for _, a := range seen.Answers {
		a.Reporter, a.At = r.id(), now
		m.polls = append(m.polls, a)
	}
	r.polls = r.polls[:0]
	rep.LHM = seen.Summary.LHM
	if t, tell := r.totals.Weigh(turn, service, &seen.Summary); tell {
		rep.Clusters = append(rep.Clusters, t)
	}
	at := 0
	for i := range evidence {
		e := &evidence[i]
		for r.s.ids[at] != e.ID {
			at++ // evidence is in the order of the members
		}
		c := cadence.Cell(merge.Key{Service: service, Instance: e.ID}, e)
		if r.told[at].Weigh(turn, &r.topic, e, &c, r.watches[at] > now) {
			rep.Cells = append(rep.Cells, c)
		}
	}
}

// countTrials tells what the trials have shown.
func (r *reporter) countTrials(turn *cadence.Turn, m *message) {
	keep := r.trials[:0]
	for _, t := range r.trials {
		if r.s.ids[t.endpoint] != t.id {
			continue
		}
		since, news, over := t.Count(turn, r.standing(t.endpoint))
		if news {
			m.probations = append(m.probations, probation{merge.Key{Service: service, Instance: t.id}, t.Epoch, since})
		}
		if !over {
			keep = append(keep, t)
		}
	}
	r.trials = keep
}

// standing is how an endpoint stands.
func (r *reporter) standing(i int) cadence.Standing {
	return cadence.Standing{Epoch: r.s.verdicts[i].Epoch, Counts: r.s.stats[i].Fresh(), Inflight: r.s.stats[i].Inflight()}
}

// lend takes a share over.
func (r *reporter) lend(s merge.Share) {
	i := r.s.find(s.Key.Instance)
	if i < 0 {
		return
	}
	now := r.w.now
	r.s.detector.Share(s.Key.Instance, s.Epoch, cadence.Weight(s), now+s.For)
	r.s.soon()
	at := slices.IndexFunc(r.trials, func(t trial) bool { return t.id == s.Key.Instance })
	var held *cadence.Trial
	if at >= 0 {
		held = r.trials[at].Trial
	}
	switch t := cadence.Lend(held, s, now, r.s.stats[i].Fresh); {
	case t == held:
	case held != nil:
		r.trials[at].Trial = t
	default:
		r.trials = append(r.trials, trial{t, i, s.Key.Instance})
	}
	r.moved(r.schedule.WakeShare(now))
}

// watch has an endpoint reported often for a while.
func (r *reporter) watch(w merge.Watch) {
	i := r.s.find(w.Key.Instance)
	if i < 0 {
		return
	}
	if r.watches[i] == 0 {
		r.watching++
	}
	r.watches[i] = r.w.now + w.For
	r.moved(r.schedule.Watch(r.w.now + w.For))
}
