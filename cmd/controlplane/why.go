package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
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
		Use:   "why ENDPOINT | why SERVICE INSTANCE",
		Short: "Explain why an endpoint is where it is, and what happens next",
		Long: `Explain what the fleet believes of an endpoint: since when, by which rule, on what
evidence and whose, what was asked before it was decided, and what happens next.

Where its score went towards a verdict, that is drawn: the score against time, with
the height that a verdict takes as a line.

ENDPOINT is an instance, an address, or SERVICE/INSTANCE.`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 2 {
				return nil
			}
			return oneEndpoint(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := r.check(); err != nil {
				return err
			}
			var why controlplane.Why
			answer, err := r.get(c.Context(), "/api/v1/why", url.Values{"endpoint": {strings.Join(args, "/")}}, &why)
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
	outlier.In:        "it takes its full share of the traffic",
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
	p.printf("\n%s\n", meaning(why))
	if why.Mode == outlier.Shadow {
		p.printf("SHADOW MODE: its service is only watched, and nothing but an operator's order is acted upon\n")
	}
	p.printf("\n")
	p.table(func(line func(string, ...any)) {
		row := func(name, format string, args ...any) { line("%s\t%s", name, fmt.Sprintf(format, args...)) }
		printPlace(row, why)
		printEvidence(row, why)
		printScores(row, why)
		printGuards(row, x)
		for i, finding := range x.Findings {
			row(first(i, "Findings"), "%s", finding)
		}
		printAvoiders(row, x)
		if x.N > 0 {
			row("Record", "%s; each doubles the next wait", count(x.N, "ejection"))
		}
		row("Next", "%s", next(x))
		for i, event := range why.Events {
			row(first(i, "History"), "%s  %s", clock(event.Time, why.Now), strings.TrimPrefix(event.Text, e.Service+"/"+e.Instance+": "))
		}
	})
	return p.err
}

// meaning says what the state is for traffic.
func meaning(why controlplane.Why) string {
	if w := why.Endpoint.Weight; w > 0 && worst(why.Endpoint) == outlier.In {
		return fmt.Sprintf("it is slow, and gets %.0f%% of its share", 100*w)
	}
	return stateMeans[worst(why.Endpoint)]
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
	if x.Cause != "" && x.Cause != x.Reason {
		row("Began", "%s ago: %s", span(time.Duration(x.Away)), x.Cause)
	}
}

// printEvidence writes what was seen, by whom, and how it compares with what
// would have been enough.
func printEvidence(row func(name, format string, args ...any), why controlplane.Why) {
	x := why.Explain
	c := x.Counts
	switch {
	case c.N > 0:
		row("Evidence", "%s in %s: %d failed (%s)", count(int(c.N), "attempt"), span(time.Duration(x.Window)), c.K, kinds(c))
	case x.Rate > 0:
		// Not "all is well": where all fail alike, nothing speaks against one of them.
		against := "nothing against it"
		if len(x.Witnesses) > 0 {
			against = "its answers say nothing against it"
		}
		if why.Endpoint.Weight > 0 {
			against = "nothing fails more than it should"
		}
		if recent := why.Endpoint.Recent; recent.K > 0 {
			against = fmt.Sprintf("%d of about %d attempts failed in the last %s, not enough to speak against it", recent.K, recent.N, span(time.Duration(recent.Within)))
		}
		gets := rate(x.Rate)
		if gets == "-" {
			gets = "hardly any request"
		}
		row("Evidence", "%s; it gets %s, and its group's usual error rate is %s", against, gets, usual(x))
	default:
		row("Evidence", "no traffic speaks of it")
	}
	if x.Trial != nil {
		printTrial(row, x)
	}
	// Other rules count witnesses or pings, and a test has a score of its own: this one
	// would only mislead.
	if counted := x.Rule == "fast" || x.Rule == "slow" || x.Rule == "none"; counted && x.Threshold > 0 && c.N > 0 && x.Reporters > 0 {
		reached := "reached"
		if x.T < x.Threshold {
			reached = "not reached"
		}
		row("Score", "%.1f, and a verdict takes %.1f (%s); the loudest machine alone adds %.1f, which is left out, for it may be broken itself", x.T, x.Threshold, reached, x.LargestC)
		if c.K == 0 {
			row("", "nothing fails any more: it falls with each answer")
		}
		row("Measure", "normal is up to %s failing, broken is %s; the group's usual rate is %s, and its neighbours now fail %s",
			percent(x.P0), percent(x.P1), usual(x), percent(x.W))
	}
	if x.Reporters > 0 {
		row("Seen by", "%s; it looks bad from %s", count(x.Reporters, "reporter"), count(x.Domains, "machine"))
	}
	rest := c
	for _, r := range x.Top {
		if r.N == 0 {
			continue
		}
		muted := ""
		if r.Muted {
			muted = ", muted"
		}
		row("", "%s%s: %d of %d failed, score %.1f%s", r.Reporter, in(r.Zone), r.K, r.N, r.C, muted)
		rest.N, rest.K = rest.N-r.N, rest.K-r.K
	}
	if more := x.Reporters - len(x.Top); more > 0 && rest.N > 0 {
		row("", "and %d more: %d of %d failed", more, max(rest.K, 0), rest.N)
	}
	if len(x.Muted) > 0 {
		row("Muted", "%s: bad towards everybody, so not believed", strings.Join(x.Muted, ", "))
	}
	for i, witness := range x.Witnesses {
		row(first(i, "Witnesses"), "%s%s: %s (%s level), %s", witness.Reporter, in(witness.Zone), cmp.Or(witnessed[witness.Kind], witness.Kind), witness.Level, when(witness.Age, x.State != outlier.In.String()))
	}
	for i, p := range x.Probes {
		took := ""
		switch {
		case p.Result == "waiting" && !asking(x):
			p.Result = "not waited for"
		case p.Result == outlier.NotRun.String():
			row(first(i, "Probes"), "%s%s: makes none now: it is busy, or cannot", p.Reporter, in(p.Zone))
			continue
		}
		if p.Took > 0 {
			took = " after " + span(time.Duration(p.Took))
		}
		age := ""
		if p.Age > 0 {
			// Those that bring an endpoint back are of after the verdict.
			age = ", " + when(p.Age, x.State == outlier.Ejected.String() || x.State == outlier.Suspended.String())
		}
		how := ""
		if p.Client == "envoy" {
			how = ", by health discovery,"
		}
		row(first(i, "Probes"), "%s%s%s at %s level: %s%s%s", p.Reporter, in(p.Zone), how, p.Level, p.Result, took, age)
	}
}

// asking says whether answers to probes are waited for.
func asking(x merge.Explanation) bool {
	return x.State == "in" || x.State == "ramp" || x.State == "suspended" || x.State == "probing"
}

// printTrial writes how a test by real requests stands, or how it ended.
func printTrial(row func(name, format string, args ...any), x merge.Explanation) {
	trial := x.Trial
	how := "goes on"
	if x.State != "probation" {
		how = "failed"
	}
	row("Test", "%s after %s, of which %d failed (%s): score %.1f, in again at 0 and out at %.0f", how, count(int(trial.Counts.N), "request"),
		trial.Counts.K, kinds(trial.Counts), trial.Score, trial.Out)
	row("", "as good as its group is up to %s failing, still bad %s", percent(trial.P0), percent(trial.P1))
	for _, r := range trial.Reporters {
		if r.N > 0 {
			row("", "%s%s: %d of %d failed, score %.1f", r.Reporter, in(r.Zone), r.K, r.N, r.C)
		}
	}
	if len(trial.Replaced) > 0 {
		row("", "%s alone saw it fail: others have taken over", strings.Join(trial.Replaced, ", "))
	}
}

// witnessed says how a witness knows.
var witnessed = map[string]string{
	"traffic": "an attempt or probe of its own failed", // the probe: of its own accord, after its idle connections were closed
	"probe":   "its probe failed",
	"overdue": "its own request hangs",
	"own":     "it stands beside the endpoint, and its application takes no connection",
}

// avoidersShown is how many sidecars are named that have taken an endpoint out alone.
const avoidersShown = 5

// printAvoiders writes who keeps away by its own judgement.
func printAvoiders(row func(name, format string, args ...any), x merge.Explanation) {
	for i, a := range x.Avoiders[:min(len(x.Avoiders), avoidersShown)] {
		row(first(i, "Locally"), "%s%s has it %s by its own evidence, whatever the fleet believes (told %s ago)", a.Reporter, in(a.Zone), a.State, span(time.Duration(a.Told)))
	}
	if more := len(x.Avoiders) - avoidersShown; more > 0 {
		row("", "and so have %d more", more)
	}
}

// usual is the error rate that a group is used to.
func usual(x merge.Explanation) string {
	if !x.PgMeasured {
		return "not measured yet (" + percent(x.Pg) + " is assumed)"
	}
	return percent(x.Pg)
}

// when says how old evidence is: now, or as it was at the verdict that rests on it.
func when(age merge.Span, verdict bool) string {
	if verdict {
		return span(time.Duration(age)) + " before the verdict"
	}
	return span(time.Duration(age)) + " ago"
}

// printGuards writes what each guard said, and of one that held a verdict back that it
// did.
func printGuards(row func(name, format string, args ...any), x merge.Explanation) {
	for i, g := range x.Guards {
		verdict := "passed"
		if !g.Pass {
			verdict = "HOLDS IT BACK"
			if g.Age > 0 {
				verdict = fmt.Sprintf("HELD IT BACK %s ago", span(time.Duration(g.Age)))
			}
		}
		if g.Detail != "" {
			verdict += ": " + g.Detail
		}
		row(first(i, "Guards"), "%s %s", strings.ReplaceAll(g.Name, "_", " "), verdict)
	}
}

const (
	// plotColumns and plotLines are the size of the picture of a score, plotTraces how
	// many there are at most.
	plotColumns = 48
	plotLines   = 5
	plotTraces  = 1
)

// printScores draws how the score went.
func printScores(row func(name, format string, args ...any), why controlplane.Why) {
	shown := slices.DeleteFunc(slices.Clone(why.Scores), func(t controlplane.Trace) bool {
		// A score that led nowhere is no news of an endpoint that another rule took out.
		other := why.Explain.State != outlier.In.String() && why.Explain.Rule != t.Rule.String()
		return len(t.Points) == 0 || t.Verdict.IsZero() && other
	})
	for i, t := range shown[:min(len(shown), plotTraces)] {
		begin, end := t.Points[0], t.Points[len(t.Points)-1]
		what := fmt.Sprintf("rule %s", t.Rule)
		if t.Scope != merge.Fleet {
			what += ", seen from zone " + string(t.Scope)
		}
		outcome := "so far"
		if !t.Verdict.IsZero() {
			outcome = "to the VERDICT at " + clock(t.Verdict, why.Now)
			if why.Explain.State == outlier.In.String() || why.Explain.Rule != t.Rule.String() {
				outcome = fmt.Sprintf("to an earlier VERDICT at %s, %s ago", clock(t.Verdict, why.Now), span(why.Now.Sub(t.Verdict)))
			}
		}
		row(first(i, "Over time"), "%s, %s %s", what, span(end.At.Sub(begin.At)), outcome)
		for _, line := range plot(t.Points) {
			row("", "%s", line)
		}
		from, to := clock(begin.At, why.Now), clock(end.At, why.Now)
		row("", "%8s%s%*s", "", from, plotColumns-len(from), to)
		row("", "at the end %.1f; ░ is with the loudest machine, %.1f", end.T, end.Sum)
	}
}

// plot draws scores from left to right in time, the highest line first. What a verdict
// takes is a line across it, what the loudest fault domains add is grey; each column
// has the newest point of its time.
func plot(points []controlplane.TracePoint) []string {
	begin := points[0].At
	length := points[len(points)-1].At.Sub(begin)
	top := 0.0
	for _, p := range points {
		top = max(top, p.T, p.Threshold)
	}
	if top <= 0 {
		return nil
	}
	var scores, sums, takes [plotColumns]float64
	next := 0
	for c := range plotColumns {
		until := begin.Add(length * time.Duration(c+1) / plotColumns)
		for next+1 < len(points) && !points[next+1].At.After(until) {
			next++
		}
		p := points[next]
		scores[c], sums[c], takes[c] = p.T/top*plotLines, p.Sum/top*plotLines, p.Threshold/top*plotLines
	}
	blocks := []rune(" ▁▂▃▄▅▆▇█")
	var lines []string
	for low := plotLines - 1; low >= 0; low-- {
		label := strings.Repeat(" ", 6)
		if threshold := points[len(points)-1].Threshold; int(math.Ceil(threshold/top*plotLines))-1 == low {
			label = fmt.Sprintf("%6.1f", threshold)
		}
		var line []rune
		for c := range plotColumns {
			filled := min(max(scores[c]-float64(low), 0), 1)
			cell := blocks[int(filled*float64(len(blocks)-1)+0.5)]
			switch {
			case cell != ' ':
			case int(math.Ceil(takes[c]))-1 == low:
				cell = '┄'
			case sums[c] >= float64(low)+0.5:
				cell = '░'
			}
			line = append(line, cell)
		}
		lines = append(lines, strings.TrimRight(label+" │"+string(line), " "))
	}
	return append(lines, fmt.Sprintf("%6d └%s", 0, strings.Repeat("─", plotColumns)))
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
