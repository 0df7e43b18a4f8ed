package outlier

import (
	"fmt"
	"strings"
	"time"
)

// inNats is a score for people.
func inNats(milli int64) float64 { return float64(milli) / float64(Nat) }

// Sentence says for a person why c happened, or why it did not, and what comes next.
// It leaves out what c names anyhow: the endpoint, the states and the rule.
func (c Change) Sentence() string {
	e := &c.Explain
	var b strings.Builder
	b.WriteString(c.because())
	if n := len(e.Checks); n > 0 && c.Refused != "" {
		fmt.Fprintf(&b, "; held back by %s: %s", c.Refused, e.Checks[n-1].Detail)
	}
	if c.Shadow && c.Refused == "" && (c.To.Out() || c.Rule == RuleLatency && e.Weight < 1) {
		b.WriteString("; in shadow mode, so that it keeps its traffic")
	}
	if e.Next != "" {
		b.WriteString("; next: " + e.Next)
		if e.NextAt > c.At {
			fmt.Fprintf(&b, ", in %v", roughly(e.NextAt-c.At))
		}
	}
	return b.String()
}

// because is what a change rests on.
func (c Change) because() string {
	e := &c.Explain
	switch {
	case c.Fleet && e.Reason == "":
		return "the control plane says so"
	case c.Fleet:
		return "the control plane says: " + e.Reason
	case e.Reason != "":
		return e.Reason
	case c.Rule == RuleLatency:
		return e.evidence(c.Rule)
	case !c.To.Out() || c.From.Out() && c.To != Ejected:
		// On the way back the cause is that of the way out.
		return map[State]string{
			Probing: "its hold-off is over", Probation: "it answers a probe", Ramp: "what it was asked on probation went well", In: "it has its full share again",
		}[c.To]
	case c.From == Probation:
		return fmt.Sprintf("it failed on probation: score %.1f, %.1f puts it out", inNats(e.Score), inNats(e.Threshold))
	}
	return e.evidence(c.Rule)
}

// evidence is what speaks against an endpoint by a rule.
func (e *Explanation) evidence(rule Rule) string {
	switch rule {
	case RuleHard:
		if e.Hinted {
			return fmt.Sprintf("it closed idle connections and a new one failed, and so did %d of %d probes from here", e.ProbesFailed, e.ProbesBack)
		}
		return fmt.Sprintf("connections to it fail, and so did %d of %d probes from here", e.ProbesFailed, e.ProbesBack)
	case RuleStalled:
		silence := "it has never answered"
		if e.Silence >= 0 {
			silence = fmt.Sprintf("it has answered nothing for %v", roughly(e.Silence))
		}
		wait := fmt.Sprintf("%d attempts wait", e.Overdue)
		if e.Overdue == 1 {
			wait = "1 attempt waits"
		}
		return fmt.Sprintf("%s for longer than %v, and %s", wait, roughly(e.OverdueAfter), silence)
	case RuleIdle:
		return fmt.Sprintf("it has no traffic and misses its pings: belief %.1f of %.1f", inNats(e.Belief), inNats(BeliefMax))
	case RuleRun:
		if e.Run == nil {
			return "a run of failures"
		}
		kind := map[string]string{"any": "attempts failed", "gateway": "attempts failed as at a gateway", "local": "attempts came to no answer"}[e.Run.Kind]
		return fmt.Sprintf("%d %s in a row", e.Run.Failures, kind)
	case RuleLatency:
		if e.Weight >= 1 {
			return "it is as fast as its group again"
		}
		return fmt.Sprintf("it is slower than its group and gets %.0f %% of its share", 100*e.Weight)
	}
	return fmt.Sprintf("%d of %d attempts failed within %v (%s): score %.1f, a verdict takes %.1f",
		e.Counts.K(), e.Counts.Tally().N, roughly(e.Window), e.Counts.kinds(), inNats(e.Score), inNats(e.Threshold))
}

// kinds lists the failures by class.
func (c Counts) kinds() string {
	var parts []string
	for _, k := range []struct {
		n    uint32
		name string
	}{{c.Conn, "connection"}, {c.Timeout, "timeout"}, {c.Server, "server error"}, {c.Over, "overload"}} {
		if k.n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", k.name, k.n))
		}
	}
	if len(parts) == 0 {
		return "none told apart"
	}
	return strings.Join(parts, ", ")
}

// roughly is a length of time without digits that nobody reads.
func roughly(d time.Duration) time.Duration {
	switch {
	case d < 10*time.Millisecond:
		return d
	case d < 10*time.Second:
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}
