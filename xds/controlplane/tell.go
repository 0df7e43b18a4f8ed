package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/overhear-mesh/overhear/outlier/merge"
)

// reason is why a verdict stands, in a sentence.
func reason(v merge.Verdict) string {
	if v.Override != nil && v.Override.Reason != "" {
		return v.Override.Reason
	}
	if v.Explain.Reason != "" {
		return v.Explain.Reason
	}
	return v.Rule.String()
}

// objection is the same of one that was held back, after what held it back; and, of both,
// what comes next.
func objection(v merge.Verdict) string {
	text := reason(v)
	if n := len(v.Explain.Guards); n > 0 && !v.Explain.Guards[n-1].Pass {
		text = v.Explain.Guards[n-1].Detail + "; against it speaks: " + text
	}
	return text + next(v)
}

// next is what comes after a verdict and when, if that is known.
func next(v merge.Verdict) string {
	x := v.Explain
	switch {
	case x.Next == "":
		return ""
	case x.ETA > 0:
		return fmt.Sprintf("; next: %s, in %v", x.Next, time.Duration(x.ETA).Round(time.Millisecond))
	}
	return "; next: " + x.Next
}

// scopeClass is the scope as a label of a metric: zones are many.
func scopeClass(s merge.Scope) string {
	if s == merge.Fleet {
		return "fleet"
	}
	return "zone"
}

// whom says for whom a verdict is, in a sentence.
func whom(s merge.Scope) string {
	if s == merge.Fleet {
		return "the fleet"
	}
	return "callers in zone " + string(s)
}

// tell logs, counts and records a change of belief, or one that was held back.
func (l *loop) tell(c merge.Change) {
	v := c.Verdict
	kind, message := "verdict", "verdict"
	text := fmt.Sprintf("%s: %s for %s (was %s), rule %s: %s%s", v.Key, c.To, whom(v.Scope), c.From, v.Rule, reason(v), next(v))
	if c.Refused != "" {
		kind, message = "refused", "verdict held back"
		text = fmt.Sprintf("%s: stays %s for %s and is not %s, held back by %s: %s", v.Key, c.From, whom(v.Scope), c.To, c.Refused, objection(v))
		l.numbers.refused[refusedLabels{v.Key.Service, c.Refused}]++
	} else {
		l.numbers.verdicts[verdictLabels{v.Key.Service, scopeClass(v.Scope), c.To, v.Rule}]++
	}
	l.history.add(Event{
		Time: l.wall(c.At), Kind: kind, Service: v.Key.Service, Endpoint: v.Key.Instance, Scope: v.Scope.String(),
		From: c.From.String(), To: c.To.String(), Rule: v.Rule.String(), Epoch: v.Epoch, HeldBack: c.Refused, Text: text,
	})
	attrs := []slog.Attr{
		slog.String("service", v.Key.Service), slog.String("endpoint", v.Key.Instance), slog.String("scope", v.Scope.String()),
		slog.String("from", c.From.String()), slog.String("to", c.To.String()), slog.String("rule", v.Rule.String()),
		slog.Uint64("epoch", v.Epoch),
	}
	if c.Refused != "" {
		attrs = append(attrs, slog.String("held_back_by", c.Refused))
	}
	level := slog.LevelInfo
	if c.Refused == "" && c.To.Out() && !c.From.Out() {
		level = slog.LevelWarn // callers have lost an endpoint
	}
	l.log.LogAttrs(context.Background(), level, message, append(attrs, slog.Any("why", why{v}))...)
}

// why is what a verdict rests on, in a log: an object in a JSON one, a sentence in one
// that people read.
type why struct{ merge.Verdict }

func (w why) MarshalText() ([]byte, error) {
	return []byte(objection(w.Verdict)), nil
}

func (w why) MarshalJSON() ([]byte, error) { return json.Marshal(w.Explain) }

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// levelOf is how loudly news of the table are logged: what changes how endpoints are used
// or whom they are judged by is seldom, and what leads to verdicts is not.
func levelOf(k merge.EventKind) slog.Level {
	switch k {
	case merge.EventMuted, merge.EventGroup, merge.EventPingPath:
		return slog.LevelWarn
	case merge.EventUnmuted, merge.EventPace, merge.EventRestarted, merge.EventStorm:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// note counts and records news of the table that change no belief.
func (l *loop) note(e merge.Event) {
	l.numbers.events[e.Kind]++
	if e.Kind == merge.EventSuspicion {
		l.numbers.suspected[e.Key.Service]++
	}
	text := e.Text
	if text == "" {
		text = string(e.Kind)
	}
	if e.Reporter != "" {
		text = e.Reporter + " " + text
	}
	if e.Key != (merge.Key{}) {
		text = e.Key.String() + ": " + text
	}
	l.history.add(Event{
		Time: l.wall(e.At), Kind: string(e.Kind), Service: e.Key.Service, Endpoint: e.Key.Instance, Reporter: e.Reporter, Text: text,
	})
	l.log.LogAttrs(context.Background(), levelOf(e.Kind), string(e.Kind), slog.String("service", e.Key.Service),
		slog.String("endpoint", e.Key.Instance), slog.String("reporter", e.Reporter), slog.String("text", e.Text))
}
