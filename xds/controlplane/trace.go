package controlplane

import (
	"cmp"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

const (
	// tracePoints bounds one trace. When it is full every other point goes, so that
	// it covers its excursion from the beginning, ever more coarsely. It is even.
	tracePoints = 60
	// traceGap is the least time between two points, to begin with.
	traceGap = 10 * time.Millisecond
	// traceKeep is how long a trace outlives its excursion, or the recovery of an
	// endpoint that it took out.
	traceKeep = time.Minute
	// traceRows bounds the traces of one endpoint, traceEndpoints the endpoints.
	traceRows      = 8
	traceEndpoints = 1000
)

// Trace is how the score of an endpoint went in one excursion.
type Trace struct {
	Rule  outlier.Rule `json:"rule"`
	Scope merge.Scope  `json:"scope,omitempty"` // whose attempts it counts; empty: everybody's
	Since time.Time    `json:"since"`           // from when on it counts
	// Verdict is when it led to one; zero: not yet, or never.
	Verdict time.Time    `json:"verdict,omitzero"`
	Points  []TracePoint `json:"points"` // at most 60, oldest first
}

// TracePoint is a score at one moment, in nats: T, which is Sum without Largest, the
// loudest fault domains, is compared with Threshold.
type TracePoint struct {
	At        time.Time `json:"at"`
	T         float64   `json:"t"`
	Sum       float64   `json:"sum"`
	Largest   float64   `json:"largest_c"`
	Threshold float64   `json:"threshold"`
}

// traces remembers how the scores of endpoints in an excursion went. It belongs to the
// loop.
type traces map[merge.Key]*traced

// traced is an endpoint with traces.
type traced struct {
	rows   []*trace // of excursions that go on, or ended lately
	judged *trace   // that led to the newest verdict
	at     time.Duration
}

type trace struct {
	rule    outlier.Rule
	scope   merge.Scope
	since   time.Duration
	verdict time.Duration
	gap     time.Duration
	points  []merge.Sample
}

// note takes in what a step has measured.
func (t traces) note(samples []merge.Sample) {
	for _, s := range samples {
		e := t[s.Key]
		if e == nil {
			if len(t) >= traceEndpoints && !t.makeRoom() {
				continue
			}
			e = &traced{}
			t[s.Key] = e
		}
		e.at = s.At
		e.note(s)
	}
}

// makeRoom drops the endpoint that has been quiet for longest, of those that nobody has
// taken out; it says whether there was one.
func (t traces) makeRoom() bool {
	var oldest merge.Key
	found := false
	for k, e := range t {
		if e.judged == nil && (!found || e.at < t[oldest].at) {
			oldest, found = k, true
		}
	}
	delete(t, oldest)
	return found
}

func (e *traced) note(s merge.Sample) {
	i := slices.IndexFunc(e.rows, func(t *trace) bool { return t.rule == s.Rule && t.scope == s.Scope })
	switch {
	case i < 0 && len(e.rows) == traceRows:
		return
	case i < 0:
		e.rows = append(e.rows, nil)
		i = len(e.rows) - 1
		fallthrough
	case e.rows[i].since != s.Since: // another excursion
		e.rows[i] = &trace{rule: s.Rule, scope: s.Scope, since: s.Since, gap: traceGap}
	}
	e.rows[i].add(s)
}

// add appends a point, or lets it take the place of one that is too near.
func (t *trace) add(s merge.Sample) {
	if n := len(t.points); n > 1 && s.At-t.points[n-2].At < t.gap {
		t.points[n-1] = s
		return
	}
	if len(t.points) == tracePoints {
		kept := t.points[:0]
		for i := 0; i < tracePoints; i += 2 {
			kept = append(kept, t.points[i])
		}
		// As far apart as those that are left: else the oldest would thin out first.
		t.gap = max(2*t.gap, (s.At-kept[0].At)/tracePoints*2)
		t.points = kept
	}
	t.points = append(t.points, s)
}

// verdict notes that a score has led to a verdict.
func (t traces) verdict(c merge.Change) {
	e, v := t[c.Verdict.Key], c.Verdict
	if e == nil || c.To != outlier.Ejected || v.Rule != outlier.RuleFast && v.Rule != outlier.RuleSlow {
		return
	}
	// A verdict for a zone may come out of everybody's score as well as out of the
	// zone's own.
	var found *trace
	for _, scope := range []merge.Scope{v.Scope, merge.Fleet} {
		for _, row := range e.rows {
			if found == nil && row.rule == v.Rule && row.scope == scope && row.points[len(row.points)-1].At == c.At {
				found = row
			}
		}
	}
	if found == nil {
		return // out of a probation, which has a score of its own
	}
	found.verdict = c.At
	e.judged, e.rows = found, nil
}

// forget drops what has been over for a while: nothing is kept of healthy endpoints.
func (t traces) forget(b beliefs, now time.Duration) {
	for k, e := range t {
		e.rows = slices.DeleteFunc(e.rows, func(row *trace) bool { return now-row.points[len(row.points)-1].At > traceKeep })
		switch {
		case len(b[k]) > 0:
			e.at = now
		case now-e.at > traceKeep:
			e.judged = nil
		}
		if len(e.rows) == 0 && e.judged == nil {
			delete(t, k)
		}
	}
}

// of are the traces of an endpoint: that of the newest verdict first, then those of
// excursions since, the highest score first.
func (t traces) of(k merge.Key, wall func(time.Duration) time.Time) []Trace {
	e := t[k]
	if e == nil {
		return nil
	}
	// Where all reporters are of one zone, its row is the fleet's with a lower threshold.
	rows := slices.DeleteFunc(slices.Clone(e.rows), func(z *trace) bool {
		return z.scope != merge.Fleet && slices.ContainsFunc(e.rows, func(t *trace) bool { return t.scope == merge.Fleet && sameScore(t, z) })
	})
	height := func(t *trace) float64 { p := t.points[len(t.points)-1]; return p.T / p.Threshold }
	slices.SortStableFunc(rows, func(a, b *trace) int { return -cmp.Compare(height(a), height(b)) })
	if e.judged != nil {
		rows = slices.Insert(rows, 0, e.judged)
	}
	var all []Trace
	for _, row := range rows {
		one := Trace{Rule: row.rule, Scope: row.scope, Since: wall(row.since)}
		if row.verdict != 0 {
			one.Verdict = wall(row.verdict)
		}
		for _, p := range row.points {
			one.Points = append(one.Points, TracePoint{At: wall(p.At), T: p.T, Sum: p.Sum, Largest: p.Largest, Threshold: p.Threshold})
		}
		all = append(all, one)
	}
	return all
}

// sameScore says whether two traces of one rule end with the same score.
func sameScore(a, b *trace) bool {
	x, y := a.points[len(a.points)-1], b.points[len(b.points)-1]
	return a.rule == b.rule && x.At == y.At && x.T == y.T && x.Sum == y.Sum
}
