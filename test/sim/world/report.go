package world

import (
	"hash/fnv"
	"strconv"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// The cadence of proxy/reporting, mirrored: there it is spread over goroutines that
// a stream wakes. The figures are its defaults.
const (
	urgentGap     = 50 * time.Millisecond
	urgentGapSlow = 250 * time.Millisecond
	fullGap       = time.Second
	summaryGap    = 10 * time.Second
	fastFor       = 500 * time.Millisecond
	newsFor       = time.Second
	softDelay     = 50 * time.Millisecond
	softBurst     = 4
	softGap       = time.Second
	shareGap      = 100 * time.Millisecond
	lookGap       = 5 * time.Millisecond
)

// reporter tells the control plane what a sidecar counts.
type reporter struct {
	s   *sidecar
	w   *World
	gen uint32
	at  time.Duration // of the pending timer
	seq uint64

	next       time.Duration // when to build
	reported   time.Duration
	looked     time.Duration
	summary    time.Duration
	everything bool
	hot        bool
	listed     bool
	soft       time.Duration // when soft news are told; 0: there are none
	softFull   time.Duration
	told       []told // by endpoint
	results    []probed
	polls      []merge.Poll
	watches    []time.Duration // by endpoint, until
	shares     []share
	totals     merge.ClusterTotals
	watching   int
}

// told is what the control plane knows of an endpoint from this sidecar.
type told struct {
	cell  merge.Cell
	at    time.Duration
	hard  time.Duration
	began time.Duration
	news  time.Duration
	first bool // the cell has been told
}

// probed is the answer to an order.
type probed struct {
	id merge.OrderID
	Answer
}

// share is a probation of which the outcomes count.
type share struct {
	endpoint int
	id       string
	epoch    uint64
	until    time.Duration
	base     outlier.Counts
	told     outlier.Counts
}

// message is one on the stream.
type message struct {
	from       int
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
	return reporter{s: s, w: s.w, at: never, next: never, told: make([]told, n), watches: make([]time.Duration, n)}
}

func (r *reporter) id() string { return "c" + strconv.Itoa(r.s.index) }

// hello begins a stream: everything is told anew.
func (r *reporter) hello() {
	clear(r.told)
	for i := range r.told {
		r.told[i].hard = outlier.Never
	}
	clear(r.watches)
	r.totals = merge.ClusterTotals{}
	r.results, r.polls, r.shares, r.soft, r.watching = nil, nil, nil, 0, 0
	clear(r.s.leases)
	h := fnv.New64a()
	_, _ = h.Write([]byte(r.id())) // never fails
	r.everything, r.listed = true, false
	r.summary = r.w.now + time.Duration(h.Sum64()%uint64(summaryGap))
	r.s.o.control.join(r.s.index)
	r.wake(r.w.now)
}

func (r *reporter) lost() {
	r.next, r.at = never, never
	r.gen++
}

// wake makes sure that a message is built at this time.
func (r *reporter) wake(at time.Duration) {
	if !r.s.connected || at >= r.next {
		return
	}
	r.next = at
	at = max(at, r.w.now)
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
	r.at, r.next = never, never
	r.build()
}

// hear takes in how urgent a step found the news.
func (r *reporter) hear(u outlier.Urgency) {
	now := r.w.now
	switch u {
	case outlier.UrgencyHard:
		r.hot = true
		r.wake(max(r.reported+urgentGap, r.looked+lookGap))
	case outlier.UrgencySoft:
		r.hot = true
		at := now + fullGap // without a token
		if full := max(r.softFull, now) + softGap; r.soft == 0 && full <= now+softBurst*softGap {
			r.softFull, r.soft = full, now+softDelay
			at = r.soft
		}
		r.wake(max(at, r.reported+urgentGap))
	}
}

// result has an answer told at once.
func (r *reporter) result(p probed) {
	if !r.s.connected {
		return
	}
	r.results = append(r.results, p)
	r.wake(r.w.now)
}

// build makes the next message and sends it.
func (r *reporter) build() {
	now := r.w.now
	r.looked = now
	summary := r.everything || now >= r.summary
	soft := r.soft > 0 && now >= r.soft
	tell := summary
	if soft {
		r.soft = 0
	}
	for r.summary <= now {
		r.summary += summaryGap
	}
	r.everything = false
	m := &message{from: r.s.index, probes: r.results}
	r.results = nil
	next := never
	if r.watching > 0 {
		r.watching = 0
		for i, until := range r.watches {
			if until > now {
				r.watching++
				next = now + urgentGap
			} else {
				r.watches[i] = 0
			}
		}
	}
	next = min(next, r.countShares(m))
	var rep *merge.Report
	if summary || r.hot || !r.listed || r.watching > 0 || len(r.polls) > 0 {
		r.hot, r.listed = false, true
		rep = &merge.Report{Reporter: r.id(), Incarnation: 1, At: now}
		gap, due := r.weigh(m, rep, summary, soft)
		next = min(next, gap)
		tell = tell || due
	}
	if tell {
		r.reported = now
		r.seq++
		if rep == nil {
			rep = &merge.Report{Reporter: r.id(), Incarnation: 1, At: now}
		}
		rep.Seq = r.seq
		for i := range rep.Cells {
			c := &rep.Cells[i]
			t := &r.told[r.s.find(c.Key.Instance)]
			t.cell, t.at, t.first = *c, now, true
		}
		m.report = rep
	}
	for i := range m.polls {
		r.seq++
		m.polls[i].Seq = r.seq
	}
	if m.report != nil || len(m.probes)+len(m.polls)+len(m.probations) > 0 {
		r.w.Ledger.Reported()
		r.s.o.control.send(m)
	}
	if r.soft > 0 {
		next = min(next, r.soft)
	}
	r.wake(min(next, r.summary))
}

// weigh asks the detector and chooses what is worth telling. It answers when to
// look again, and whether there is a reason to report now.
func (r *reporter) weigh(m *message, rep *merge.Report, summary, soft bool) (next time.Duration, tell bool) {
	now := r.w.now
	d := r.s.detector
	evidence, sum := d.Evidence(now), d.Summary(now)
	r.s.wake() // who is asked steps
	next = never
	for _, p := range r.polls {
		then, ok := d.History(p.Key.Instance, p.At)
		if !ok {
			then.At = outlier.Never
		}
		a := merge.PollAnswer{ID: p.ID, Reporter: r.id(), At: now, Then: then, Cell: merge.Cell{
			Key: p.Key, LastOK: outlier.Never, LastOKStart: outlier.Never, LastHard: outlier.Never, LastHardStart: outlier.Never,
		}}
		for i := range evidence {
			if evidence[i].ID == p.Key.Instance {
				a.Cell = cellOf(&evidence[i])
			}
		}
		m.polls = append(m.polls, a)
	}
	r.polls = r.polls[:0]
	rep.LHM = sum.LHM
	if summary {
		if t := (merge.ClusterTotals{Service: service, N: sum.N, K: sum.K, Overdue: sum.Overdue}); t != r.totals {
			r.totals = t
			rep.Clusters = append(rep.Clusters, t)
		}
	}
	at := 0
	for i := range evidence {
		e := &evidence[i]
		for r.s.ids[at] != e.ID {
			at++ // evidence is in the order of the members
		}
		t := &r.told[at]
		w := t.look(e, now)
		watched := r.watches[at] > now
		if w > calm {
			r.hot = true
			next = min(next, now+t.gap(w, now))
		}
		c := cellOf(e)
		if !t.stale(&c) || w == calm && !watched && !summary {
			continue
		}
		rep.Cells = append(rep.Cells, c)
		tell = tell || watched && now-t.at >= urgentGap || soft && w == suspect || t.due(w, now)
	}
	return next, tell
}

func cellOf(e *outlier.Evidence) merge.Cell {
	return merge.Cell{
		Key: merge.Key{Service: service, Instance: e.ID}, Counts: e.Counts, Overdue: e.Overdue,
		LastOK: e.LastOK, LastOKStart: e.LastOKStart, LastHard: e.LastHard, LastHardStart: e.LastHardStart,
		State: e.State, Witness: e.Witness, History: e.History, Score: e.Score,
	}
}

// temper is how much the news of an endpoint matter.
type temper uint8

const (
	calm temper = iota
	suspect
	hardNews
)

func (t *told) look(e *outlier.Evidence, now time.Duration) temper {
	fresh := e.LastHard > t.hard && now-e.LastHard < newsFor
	t.hard = max(t.hard, e.LastHard)
	switch {
	case fresh, e.Overdue > 0, e.Witness != outlier.LevelNone:
		if t.news == 0 || now-t.news > newsFor {
			t.began = now
		}
		t.news = now
		return hardNews
	case e.Excursion, e.State.Out():
		return suspect
	}
	return calm
}

func (t *told) gap(w temper, now time.Duration) time.Duration {
	switch {
	case w == hardNews && now-t.began < fastFor:
		return urgentGap
	case w == hardNews:
		return urgentGapSlow
	case w == suspect:
		return fullGap
	}
	return summaryGap
}

func (t *told) due(w temper, now time.Duration) bool {
	if w == hardNews && t.at < t.began {
		return true
	}
	return w > calm && now-t.at >= t.gap(w, now)
}

func (t *told) stale(c *merge.Cell) bool {
	was := &t.cell
	return !t.first || c.Overdue > 0 || c.Counts != was.Counts || c.Overdue != was.Overdue ||
		c.State != was.State || c.Witness != was.Witness || c.LastOK != was.LastOK || c.LastHard != was.LastHard
}

// countShares tells what the shares have shown, and when to look again.
func (r *reporter) countShares(m *message) time.Duration {
	next := never
	keep := r.shares[:0]
	for _, s := range r.shares {
		if r.s.ids[s.endpoint] != s.id {
			continue
		}
		if c := r.s.stats[s.endpoint].Counts().Sub(s.base); c != s.told {
			s.told = c
			m.probations = append(m.probations, probation{merge.Key{Service: service, Instance: s.id}, s.epoch, c})
		}
		if s.until <= r.w.now {
			continue
		}
		keep = append(keep, s)
		next = r.w.now + shareGap
	}
	r.shares = keep
	return next
}

// lend takes a share over.
func (r *reporter) lend(s merge.Share) {
	i := r.s.find(s.Key.Instance)
	if i < 0 {
		return
	}
	weight := s.Weight
	if s.Trickle > 0 {
		weight = min(1, 1/s.Trickle.Seconds())
	}
	until := r.w.now + s.For
	r.s.detector.Share(s.Key.Instance, s.Epoch, weight, until)
	r.s.soon()
	known := false
	for j := range r.shares {
		if h := &r.shares[j]; h.endpoint == i {
			known = h.epoch == s.Epoch
			if !known {
				r.shares = append(r.shares[:j], r.shares[j+1:]...)
				break
			}
			h.until = until
			if weight == 0 {
				h.until = r.w.now
			}
		}
	}
	if !known && weight > 0 && s.Trickle == 0 {
		r.shares = append(r.shares, share{endpoint: i, id: s.Key.Instance, epoch: s.Epoch, until: until, base: r.s.stats[i].Counts()})
	}
	r.wake(r.w.now + shareGap)
}
