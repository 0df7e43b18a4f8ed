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
)

// narrator prints what happens as it happens.
type narrator struct {
	mu      sync.Mutex // guards what follows
	w       io.Writer
	started time.Time
	active  map[string]act // by name
}

// act is a fault that is on the stage.
type act struct {
	fault fault
	began time.Duration
}

func newNarrator(w io.Writer) *narrator { return &narrator{w: w, active: map[string]act{}} }

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

func (n *narrator) printLocked(at time.Duration, format string, args ...any) {
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
	n.active[f.name] = act{f, began}
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
	verdict := "ok"
	if !r.OK {
		verdict = "NOT OK: " + strings.Join(r.Problems, "; ")
	}
	n.printLocked(0, "   %s: noticed after %s, last attempt of the fleet after %s, failed attempts %d, users lost %d (%d not repeatable), fair share again after %s: %s",
		r.Name, figure(r.DetectedMS), figure(r.FleetOffMS), r.FailedAttempts, r.FailedRequests, r.FailedUnrepeatable, figure(r.RecoveredMS), verdict)
}

// control prints an event of the control plane.
func (n *narrator) control(e controlEvent) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.started.IsZero() || len(n.active) == 0 {
		return
	}
	at := e.Time.Sub(n.started.Round(0))
	since := ""
	for _, a := range n.active {
		if slices.Contains(a.fault.targets, e.Endpoint) {
			since = fmt.Sprintf("+%d ms ", (at - a.began).Milliseconds())
		}
	}
	n.printLocked(at, "   %s%s", since, e.Text)
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
	fmt.Fprintf(w, "\n%d callers, %d endpoints, %.0f requests/s into each; base error rate 0; (what a quiet machine should show), of which OK allows ten times\n\n", callers, instances, o.rate/instances)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "FAULT\tNOTICED\tFLEET OFF\tFAILED ATTEMPTS\tFAILED REQUESTS\tNOT REPEATABLE\tFALSE EJECTIONS\tFAIR SHARE AGAIN\tOK")
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
			fmt.Fprintf(tw, "%s\t%s%s\t%s%s\t%d%s\t%d\t%d\t%d\t%s (≤ 25 s)\t%t\n", name,
				figure(first.DetectedMS), aim(first.AimDetectedMS), figure(first.FleetOffMS), aim(first.AimOffMS),
				first.FailedAttempts, aimCount(first.AimAttempts), first.FailedRequests, first.FailedUnrepeatable, first.FalseEjections,
				figure(first.RecoveredMS), first.OK)
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
			count(func(r result) int { return r.FailedRequests }), count(func(r result) int { return r.FailedUnrepeatable }), falsely,
			spread(group, func(r result) *float64 { return r.RecoveredMS }, figure), good, len(group))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, r := range results {
		for _, p := range r.Problems {
			fmt.Fprintf(w, "%s: %s\n", r.Name, p)
		}
	}
	fmt.Fprintf(w, "\nusers sent %d requests, %d failed\n", sent, failed)
	if skipped > 0 {
		fmt.Fprintf(w, "%d requests could not be sent in time: this machine is too busy for the rate\n", skipped)
	}
	return nil
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
