package main

import (
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/test/trial"
)

// narrator prints what happens as it happens.
type narrator struct {
	mu      sync.Mutex // guards what follows
	w       io.Writer
	started time.Time
	active  map[string]act // by name

	suspended map[string]bool // endpoints that the fleet has suspended
	refused   *controlEvent   // a removal that was not made; what follows may say that it was
	joined    []controlEvent  // who has begun to report, without another event between
}

// act is a fault that is on the stage.
type act struct {
	fault fault
	began time.Duration
	left  map[string]bool // callers that have left its target by themselves
}

func newNarrator(w io.Writer) *narrator {
	return &narrator{w: w, active: map[string]act{}, suspended: map[string]bool{}}
}

func (n *narrator) begin(started time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.started = started
}

// line prints one line with the time of the show.
func (n *narrator) line(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.printLocked(0, format, args...)
}

// printLocked prints a line, and before it what has been waiting for company.
func (n *narrator) printLocked(at time.Duration, format string, args ...any) {
	n.flushLocked()
	n.writeLocked(at, format, args...)
}

func (n *narrator) writeLocked(at time.Duration, format string, args ...any) {
	clock := "         "
	if !n.started.IsZero() {
		if at == 0 {
			at = time.Since(n.started)
		}
		clock = fmt.Sprintf("%8.3fs", at.Seconds())
	}
	fmt.Fprintf(n.w, "%s  %s\n", clock, fmt.Sprintf(format, args...))
}

func (n *narrator) opens(f fault, began time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.active[f.name] = act{f, began, map[string]bool{}}
	n.printLocked(began, "── %s: %s", strings.ToUpper(f.name), f.what)
}

func (n *narrator) mends(f fault, at time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.printLocked(at, "   %s: mended", f.name)
}

func (n *narrator) closes(r result) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.active, r.Name)
	n.printLocked(0, "   %s: %s", r.Name, outcome(r))
}

// at is when something of the control plane happened, since the start of the show.
func (n *narrator) at(e controlEvent) time.Duration { return e.Time.Sub(n.started.Round(0)) }

// sinceLocked says how long after the beginning of its fault something happened to an
// endpoint; "" if it has none.
func (n *narrator) sinceLocked(at time.Duration, endpoint string) string {
	since := ""
	for _, a := range n.active {
		if slices.Contains(a.fault.targets, endpoint) {
			since = fmt.Sprintf("+%d ms ", (at - a.began).Milliseconds())
		}
	}
	return since
}

// atOnce is how soon a removal that is made makes one by another rule that was not
// made, just before, not worth a line.
const atOnce = 20 * time.Millisecond

// control prints an event of the control plane.
func (n *narrator) control(e controlEvent) {
	n.mu.Lock()
	defer n.mu.Unlock()
	verdict := e.Kind == "verdict"
	if verdict && e.Scope == "fleet" {
		n.suspended[e.Endpoint] = e.To == outlier.Suspended.String()
	}
	if n.started.IsZero() || len(n.active) == 0 {
		return
	}
	switch r := n.refused; {
	case e.Kind == "suspicion" && n.suspended[e.Endpoint]:
		return // each attempt of its trickle hangs as well, as was to be expected
	case e.Kind == "reporter" && strings.Contains(e.Text, " reports from "):
		n.joined = append(n.joined, e)
		return
	case verdict && r != nil && r.Endpoint == e.Endpoint && out(e.To) && e.Time.Sub(r.Time) <= atOnce:
		n.refused = nil
	}
	n.flushLocked()
	if e.Kind == "refused" {
		n.refused = &e
		return
	}
	n.eventLocked(e)
}

func (n *narrator) eventLocked(e controlEvent) {
	at := n.at(e)
	n.writeLocked(at, "   %s%s", n.sinceLocked(at, e.Endpoint), e.Text)
}

// flushLocked prints what has been waiting for what follows it.
func (n *narrator) flushLocked() {
	joined, refused := n.joined, n.refused
	n.joined, n.refused = nil, nil
	switch len(joined) {
	case 0:
	case 1:
		n.eventLocked(joined[0])
	default:
		n.writeLocked(n.at(joined[len(joined)-1]), "   %d sidecars have begun to report", len(joined))
	}
	if refused != nil {
		n.eventLocked(*refused)
	}
}

// believes prints that a caller takes an endpoint out by itself, once a fault, where
// that is all there is: without a control plane.
func (n *narrator) believes(at time.Duration, caller string, change outlier.Change) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range n.active {
		if !a.fault.local || !slices.Contains(a.fault.targets, change.ID) || !out(change.To.String()) || change.Fleet || a.left[caller] {
			continue
		}
		a.left[caller] = true
		n.printLocked(at, "   %sapi/%s: %s takes it out by itself (%s), rule %s: %s",
			n.sinceLocked(at, change.ID), change.ID, caller, change.To, change.Rule, change.Sentence())
	}
}

// outcome says in words how a fault was handled.
func outcome(r result) string {
	found, fair := "", ""
	switch f := r.fault; {
	case f.suspect != "":
		found = fmt.Sprintf("counted from %s: noticed by %s itself after %s, believed by nobody else", r.from, f.suspect, figure(r.DetectedMS))
		if !r.OK {
			found = strings.TrimSuffix(found, ", believed by nobody else")
		}
	case f.unseen:
		found = "there is nothing to find, for old connections answer"
	default:
		found = fmt.Sprintf("counted from %s: noticed after %s, last attempt of the fleet begun after %s", r.from, figure(r.DetectedMS), figure(r.FleetOffMS))
	}
	if len(r.fault.targets) > 0 {
		fair = fmt.Sprintf("; fair share again %s after its end", figure(r.RecoveredMS))
	}
	verdict := "ok"
	if !r.OK {
		verdict = "NOT OK: " + strings.Join(r.Problems, "; ")
	}
	return fmt.Sprintf("%s; failed attempts %d, users lost %s%s: %s", found, r.FailedAttempts, lost(r), fair, verdict)
}

// lost is how many requests users lost, and how many of them nobody could have repeated.
func lost(r result) string {
	if r.FailedUnrepeatable == 0 {
		return fmt.Sprint(r.lost())
	}
	return fmt.Sprintf("%d (of which %d not repeatable)", r.lost(), r.FailedUnrepeatable)
}

func figure(v *float64) string {
	switch {
	case v == nil:
		return "–"
	case *v >= 10000:
		return fmt.Sprintf("%.1f s", *v/1e3)
	default:
		return fmt.Sprintf("%.0f ms", *v)
	}
}

// printSummary prints the table: a line a fault, or its median and p95 if it was
// shown more than once.
func printSummary(w io.Writer, o options, results []result, sent, failed, skipped int64) error {
	fmt.Fprintf(w, "\n%d callers, %d endpoints, %.0f requests/s into each, base error rate 0. In brackets: the aim on a quiet machine.\n"+
		"ok: NOTICED, FLEET OFF and FAILED ATTEMPTS are within %d times their aims, the fair share is back within %.0f s, no endpoint\n"+
		"was ejected without cause, and no crash cost a request that could be repeated.\n\n",
		callers, instances, o.rate/instances, slack, patience.Seconds())
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "FAULT\tNOTICED\tFLEET OFF\tFAILED ATTEMPTS\tFAILED REQUESTS\tOF WHICH NOT REPEATABLE\tFALSE EJECTIONS\tFAIR SHARE AGAIN\tOK")
	var names []string
	byName := map[string][]result{}
	for _, r := range results {
		if byName[r.Name] == nil {
			names = append(names, r.Name)
		}
		byName[r.Name] = append(byName[r.Name], r)
	}
	for _, name := range names {
		group := byName[name]
		first := group[0]
		if o.repeat == 1 {
			fmt.Fprintf(tw, "%s\t%s%s\t%s%s\t%d%s\t%d\t%d\t%d\t%s%s\t%s\n", name,
				figure(first.DetectedMS), aim(first.AimDetectedMS), figure(first.FleetOffMS), aim(first.AimOffMS),
				first.FailedAttempts, aimCount(first.AimAttempts), first.lost(), first.FailedUnrepeatable, first.FalseEjections,
				figure(first.RecoveredMS), aimFair(first.fault), okay(first.OK))
			continue
		}
		good := 0
		falsely := 0
		for _, r := range group {
			falsely += r.FalseEjections
			if r.OK {
				good++
			}
		}
		count := func(of func(result) int) string {
			return spread(group, func(r result) *float64 { v := float64(of(r)); return &v }, func(v *float64) string { return fmt.Sprintf("%.0f", *v) })
		}
		fmt.Fprintf(tw, "%s\t%s%s\t%s%s\t%s%s\t%s\t%s\t%d\t%s\t%d of %d\n", name,
			spread(group, func(r result) *float64 { return r.DetectedMS }, figure), aim(first.AimDetectedMS),
			spread(group, func(r result) *float64 { return r.FleetOffMS }, figure), aim(first.AimOffMS),
			count(func(r result) int { return r.FailedAttempts }), aimCount(first.AimAttempts),
			count(result.lost), count(func(r result) int { return r.FailedUnrepeatable }), falsely,
			spread(group, func(r result) *float64 { return r.RecoveredMS }, figure)+aimFair(first.fault), good, len(group))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, r := range results {
		for _, p := range r.Problems {
			fmt.Fprintf(w, "%s: %s\n", r.Name, p)
		}
	}
	fmt.Fprintf(w, "\nusers sent %d requests, %d failed%s\n", sent, failed, onPurpose(results))
	if skipped > 0 {
		fmt.Fprintf(w, "%d requests could not be sent in time: this machine is too busy for the rate\n", skipped)
	}
	return nil
}

// onPurpose says how many requests failed because the network of the caller itself
// was broken: no sidecar could have saved those.
func onPurpose(results []result) string {
	n, who := 0, ""
	for _, r := range results {
		if r.fault.suspect != "" {
			n, who = n+r.lost(), r.fault.suspect
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %d of them those of %s while its own network was broken on purpose", n, who)
}

func okay(ok bool) string {
	if ok {
		return "ok"
	}
	return "NOT OK"
}

// aimFair is the aim of the fair share, where there is an endpoint to get it back.
func aimFair(f fault) string {
	if len(f.targets) == 0 {
		return ""
	}
	return aim(trial.MS(recoveryAim))
}

func aim(v *float64) string {
	if v == nil {
		return ""
	}
	return " (≤ " + figure(v) + ")"
}

func aimCount(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (≤ %d)", n)
}

// spread is median and p95 of a figure over repeated runs; runs without the
// figure count as the longest.
func spread(group []result, of func(result) *float64, show func(*float64) string) string {
	var values []*float64
	for _, r := range group {
		values = append(values, of(r))
	}
	sort.Slice(values, func(i, j int) bool {
		return values[j] == nil && values[i] != nil || values[i] != nil && values[j] != nil && *values[i] < *values[j]
	})
	at := func(q float64) *float64 { return values[min(len(values)-1, int(q*float64(len(values))))] }
	return "median " + show(at(0.5)) + ", p95 " + show(at(0.95))
}
