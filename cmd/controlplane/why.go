package main

import (
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/controlplane"
)

func whyCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:   "why ENDPOINT",
		Short: "Explain why an endpoint is where it is, and what happens next",
		Long: `Explain what the fleet believes of an endpoint: since when, by which rule, on what
evidence and whose, what was asked before it was decided, and what happens next.

ENDPOINT is an instance, an address, or SERVICE/INSTANCE.`,
		Args: oneEndpoint,
		RunE: func(c *cobra.Command, args []string) error {
			if err := r.check(); err != nil {
				return err
			}
			var why controlplane.Why
			answer, err := r.get(c.Context(), "/api/v1/why", url.Values{"endpoint": {args[0]}}, &why)
			if err != nil {
				return err
			}
			return r.print(c.OutOrStdout(), answer, func(w io.Writer) error { return printWhy(w, why) })
		},
	}
}

// headline is a state in a sentence about the endpoint.
var headline = map[outlier.State]string{
	outlier.In:        "IN",
	outlier.Suspended: "SUSPENDED",
	outlier.Ejected:   "EJECTED",
	outlier.Probing:   "EJECTED and being probed",
	outlier.Probation: "ON PROBATION",
	outlier.Ramp:      "COMING BACK",
	outlier.Draining:  "DRAINING",
}

// stateMeans says what a state is for traffic.
var stateMeans = map[outlier.State]string{
	outlier.In:        "it takes its full share",
	outlier.Suspended: "answers are overdue: no traffic but a trickle, and the first answer ends it",
	outlier.Ejected:   "no traffic; it waits before anybody asks it again",
	outlier.Probing:   "no traffic; sidecars probe it",
	outlier.Probation: "a few real requests decide whether it may come back",
	outlier.Ramp:      "it is back, and its share is rising",
	outlier.Draining:  "it is leaving on purpose: no new requests, no judgement",
}

// ruleMeans says what a rule saw.
var ruleMeans = map[string]string{
	"hard":    "connections to it fail, and sidecars that were asked saw the same",
	"stalled": "requests to it hang, for several sidecars at once",
	"fast":    "too many of its requests fail, for several sidecars",
	"slow":    "a few of its requests fail, but steadily more than its neighbours'",
	"idle":    "there is no traffic, and it does not answer pings",
	"manual":  "an operator said so",
}

// printWhy writes an explanation for somebody who was woken by it: what, since
// when, on whose word, and what happens if he goes back to bed.
func printWhy(w io.Writer, why controlplane.Why) error {
	p := &page{w: w}
	e, x := why.Endpoint, why.Explain
	p.printf("%s/%s is %s", e.Service, e.Instance, headline[e.State])
	if e.State != outlier.In && e.State != outlier.Draining {
		p.printf(" for %s", whom(x.Scope))
	}
	if !e.SinceTime.IsZero() {
		p.printf(", since %s (%s ago)", clock(e.SinceTime, why.Now), span(why.Now.Sub(e.SinceTime)))
	}
	for _, z := range e.Zones {
		p.printf(",\nbut %s for callers in zone %s, since %s ago", headline[z.State], z.Zone, span(time.Duration(z.Since)))
	}
	p.printf("\n%s\n\n", stateMeans[worst(e)])
	p.table(func(line func(string, ...any)) {
		row := func(name, format string, args ...any) { line("%s\t%s", name, fmt.Sprintf(format, args...)) }
		printPlace(row, why)
		printEvidence(row, x)
		printScores(row, why)
		for i, g := range x.Guards {
			verdict := "let it pass"
			if !g.Pass {
				verdict = "HELD IT BACK"
			}
			if g.Detail != "" {
				verdict += ": " + g.Detail
			}
			row(first(i, "Guards"), "%s %s", g.Name, verdict)
		}
		for i, finding := range x.Findings {
			row(first(i, "Findings"), "%s", finding)
		}
		if x.N > 0 {
			row("Record", "%s; each doubles the next wait", count(x.N, "ejection"))
		}
		row("Next", "%s", next(x))
		for i, event := range why.Events {
			row(first(i, "History"), "%s  %s", clock(event.Time, why.Now), event.Text)
		}
	})
	return p.err
}

// worst is the state that needs an explanation: the fleet's, or that of the first
// zone if the endpoint is in for everybody else.
func worst(e controlplane.EndpointStatus) outlier.State {
	if e.State == outlier.In && len(e.Zones) > 0 {
		return e.Zones[0].State
	}
	return e.State
}

// printPlace writes which endpoint this is and on whose word it is where it is.
func printPlace(row func(name, format string, args ...any), why controlplane.Why) {
	e, x := why.Endpoint, why.Explain
	where := e.Address
	if e.Zone != "" {
		where += ", zone " + e.Zone
	}
	if all := labels(x.Labels); all != "" {
		where += ", labels " + all
	}
	row("Endpoint", "%s", where)
	if o := e.Override; o != nil {
		until := "until released"
		if !o.Until.IsZero() {
			until = "for another " + span(o.Until.Sub(why.Now))
		}
		row("Operator", "%s by %s, %s: %s", o.Kind, o.By, until, o.Reason)
	}
	if meaning := ruleMeans[x.Rule]; meaning != "" {
		row("Rule", "%s: %s", x.Rule, meaning)
	}
	if x.Reason != "" {
		row("Reason", "%s", x.Reason)
	}
}

// printEvidence writes what was seen, by whom, and how it compares with what
// would have been enough.
func printEvidence(row func(name, format string, args ...any), x merge.Explanation) {
	c := x.Counts
	switch {
	case c.N > 0:
		row("Evidence", "%s in %s: %d failed (%s)", count(int(c.N), "attempt"), span(time.Duration(x.Window)), c.K, kinds(c))
	case x.Rate > 0:
		row("Evidence", "nothing against it: %s, all is as usual", rate(x.Rate))
	default:
		row("Evidence", "no traffic speaks of it")
	}
	// Other rules count witnesses or pings; the score would only mislead.
	if counted := x.Rule == "fast" || x.Rule == "slow" || x.Rule == "none"; counted && x.Threshold > 0 && c.N > 0 {
		reached := "reached"
		if x.T < x.Threshold {
			reached = "not reached"
		}
		row("Score", "%.1f of the %.1f that a verdict takes (%s), without the loudest fault domain, which alone says %.1f", x.T, x.Threshold, reached, x.LargestC)
		row("Measure", "normal is up to %s failing, broken is %s; the group's usual rate is %s, its neighbours now %s",
			percent(x.P0), percent(x.P1), percent(x.Pg), percent(x.W))
	}
	if x.Reporters > 0 {
		row("Reporters", "%s with evidence, %s against it", count(x.Reporters, "sidecar"), count(x.Domains, "fault domain"))
	}
	for _, r := range x.Top {
		if r.N == 0 {
			continue
		}
		muted := ""
		if r.Muted {
			muted = ", muted"
		}
		row("", "%s%s: %d of %d failed, score %.1f%s", r.Reporter, in(r.Zone), r.K, r.N, r.C, muted)
	}
	if x.State == "in" && x.T < x.Threshold && x.LargestC >= x.Threshold {
		row("Held back", "one fault domain alone says so, and it may be its own fault: a verdict takes a second one")
	}
	if len(x.Muted) > 0 {
		row("Muted", "%s: bad towards everybody, so not believed", strings.Join(x.Muted, ", "))
	}
	for i, witness := range x.Witnesses {
		row(first(i, "Witnesses"), "%s%s by %s, %s level, %s before", witness.Reporter, in(witness.Zone), witness.Kind, witness.Level, span(time.Duration(witness.Age)))
	}
	for i, p := range x.Probes {
		took := ""
		if p.Took > 0 {
			took = " after " + span(time.Duration(p.Took))
		}
		row(first(i, "Probes"), "%s%s at %s level: %s%s", p.Reporter, in(p.Zone), p.Level, p.Result, took)
	}
}

const (
	// scoreColumns is how wide the picture of a score is, scoreLines how many of its
	// points are written beside it, scoreTraces how many pictures there are.
	scoreColumns = 40
	scoreLines   = 4
	scoreTraces  = 2
)

// printScores draws how the score went, from left to right in time. A full block is the
// threshold.
func printScores(row func(name, format string, args ...any), why controlplane.Why) {
	for i, t := range why.Scores[:min(len(why.Scores), scoreTraces)] {
		if len(t.Points) == 0 {
			continue
		}
		begin, end := t.Points[0].At, t.Points[len(t.Points)-1].At
		what := fmt.Sprintf("rule %s", t.Rule)
		if t.Scope != merge.Fleet {
			what += ", seen from zone " + string(t.Scope)
		}
		outcome := "so far"
		if !t.Verdict.IsZero() {
			outcome = "to the VERDICT at " + clock(t.Verdict, why.Now)
		}
		row(first(i, "Over time"), "%s %s, %s %s; full height is what a verdict takes", picture(t.Points), what, span(end.Sub(begin)), outcome)
		for _, p := range some(t.Points, scoreLines) {
			row("", "%s  score %.1f of %.1f, all together %.1f, the loudest %.1f", clock(p.At, why.Now), p.T, p.Threshold, p.Sum, p.Largest)
		}
	}
}

// picture is a line of blocks as high as the score. Each column has the newest point of
// its time.
func picture(points []controlplane.TracePoint) string {
	heights := []rune(" ▁▂▃▄▅▆▇█")
	begin := points[0].At
	length := points[len(points)-1].At.Sub(begin)
	columns := min(scoreColumns, len(points))
	var line []rune
	next := 0
	for c := range columns {
		until := begin.Add(length * time.Duration(c+1) / time.Duration(columns))
		for next+1 < len(points) && !points[next+1].At.After(until) {
			next++
		}
		p := points[next]
		height := 0.0
		if p.Threshold > 0 {
			height = min(max(p.T/p.Threshold, 0), 1)
		}
		line = append(line, heights[int(height*float64(len(heights)-1))])
	}
	return "|" + string(line) + "|"
}

// some are up to n points, the first and the last among them.
func some(points []controlplane.TracePoint, n int) []controlplane.TracePoint {
	if len(points) <= n {
		return points
	}
	var all []controlplane.TracePoint
	for i := range n {
		all = append(all, points[i*(len(points)-1)/(n-1)])
	}
	return all
}

// kinds lists the failures, and what is no failure but worth knowing.
func kinds(c merge.Tally) string {
	var parts []string
	for _, k := range []struct {
		n    int64
		name string
	}{{c.Conn, "connection"}, {c.Timeout, "timeout"}, {c.Server, "server error"}, {c.Overload, "overload"}, {c.Censored, "given up by the client"}} {
		if k.n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", k.name, k.n))
		}
	}
	if len(parts) == 0 {
		return "nothing of note"
	}
	return strings.Join(parts, ", ")
}

func in(zone string) string {
	if zone == "" {
		return ""
	}
	return " in " + zone
}

func whom(scope merge.Scope) string {
	if scope == merge.Fleet {
		return "the whole fleet"
	}
	return "callers in zone " + string(scope)
}

// clock is a time of day, with the day if that is another one.
func clock(t, now time.Time) string {
	if t, now = t.Local(), now.Local(); t.YearDay() != now.YearDay() || t.Year() != now.Year() {
		return t.Format("2006-01-02 15:04:05")
	}
	return t.Format("15:04:05.000")
}

func first(i int, name string) string {
	if i == 0 {
		return name
	}
	return ""
}

func labels(all map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		parts = append(parts, k+"="+all[k])
	}
	return strings.Join(parts, " ")
}

// next says what happens if nobody does anything.
func next(x merge.Explanation) string {
	if x.Next == "" {
		return "nothing: it is watched like any other"
	}
	if x.ETA > 0 {
		return fmt.Sprintf("%s, in %s", x.Next, span(time.Duration(x.ETA)))
	}
	return x.Next
}
