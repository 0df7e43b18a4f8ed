package mesh

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Removal is how a fleet got off an endpoint.
type Removal struct {
	Began    time.Duration // the fault
	First    time.Duration // when the first failed attempt on it began; -1: there was none
	Off      time.Duration // when the last caller had taken it out
	All      bool          // whether all callers have
	Last     time.Duration // when the last attempt on it began
	Attempts int           // failed, of the fleet
	Lost     int           // repeatable requests that were lost, wherever they were tried
	LostOnce int           // those that must not be sent twice
}

// Took is the time from the first failed attempt until all callers had taken the
// endpoint out; from the fault, where they had before any attempt failed: connections
// that lay idle have told them.
func (r Removal) Took() time.Duration {
	if r.First < 0 || r.First > r.Off {
		return r.Off - r.Began
	}
	return r.Off - r.First
}

// Removal tells of what happened to an endpoint between two instants, of which the
// first is the beginning of its fault.
func (m *Mesh) Removal(endpoint int, from, to time.Duration) Removal {
	r := Removal{Began: from, First: -1}
	for _, a := range m.Attempts(func(a Attempt) bool { return a.Endpoint == endpoint && a.At+a.Took >= from && a.At < to }) {
		if a.Class.Failure() {
			if r.First < 0 {
				r.First = a.At
			}
			r.Attempts++
		}
		r.Last = a.At
	}
	off := map[int]time.Duration{}
	for _, b := range m.Beliefs(func(b Belief) bool { return b.Endpoint == endpoint && b.At >= from && b.At < to && b.takesOut() }) {
		if _, known := off[b.Caller]; !known {
			off[b.Caller] = b.At
			r.Off = max(r.Off, b.At)
		}
	}
	r.All = len(off) == len(m.Callers)
	for _, q := range m.Requests(func(q Request) bool { return q.At+q.Took >= from && q.At < to && q.Lost() }) {
		if q.Repeatable {
			r.Lost++
		} else {
			r.LostOnce++
		}
	}
	return r
}

func (b Belief) takesOut() bool {
	return b.Refused == "" && !b.Shadow && (b.To == outlier.Ejected || b.To == outlier.Suspended)
}

// FirstSlow is when the first attempt on an endpoint began that had no answer for so
// long, of those under way at an instant or begun after it; -1: there was none. Only
// attempts that have ended meanwhile are known.
func (m *Mesh) FirstSlow(endpoint int, from, age time.Duration) time.Duration {
	slow := m.Attempts(func(a Attempt) bool { return a.Endpoint == endpoint && a.At+a.Took > from && a.Took >= age })
	if len(slow) == 0 {
		return -1
	}
	return slow[0].At
}

// FalseOuts are the changes by which a caller took out an endpoint other than those
// named, from an instant on.
func (m *Mesh) FalseOuts(from time.Duration, except ...int) []Belief {
	return m.Beliefs(func(b Belief) bool {
		return b.At >= from && b.takesOut() && !b.From.Out() && !slices.Contains(except, b.Endpoint)
	})
}

// Share is the part of the fleet's attempts between two instants that went to an
// endpoint, 1 being what is fair.
func (m *Mesh) Share(endpoint int, from, to time.Duration) float64 {
	mine, all := 0, 0
	for _, a := range m.Attempts(func(a Attempt) bool { return a.At >= from && a.At < to }) {
		all++
		if a.Endpoint == endpoint {
			mine++
		}
	}
	if all == 0 {
		return 0
	}
	return float64(mine*len(m.Endpoints)) / float64(all)
}

// Admitted is the smallest share of its weight that a caller gives an endpoint now.
func (m *Mesh) Admitted(endpoint int) float64 {
	least := 1.0
	for i := range m.Callers {
		for _, e := range m.Snapshot(i).Endpoints {
			if m.indexOf(e.ID) == endpoint {
				least = min(least, e.Share)
			}
		}
	}
	return least
}

// Story is everything that anybody believed from an instant on, for the reader of a
// test that failed.
func (m *Mesh) Story(from time.Duration) string {
	type line struct {
		at   time.Duration
		text string
	}
	var lines []line
	for _, e := range m.Events() {
		text := "control plane: " + e.Kind + ": " + e.Text
		if e.HeldBack != "" {
			text += " [held back: " + e.HeldBack + "]"
		}
		lines = append(lines, line{m.EventAt(e), text})
	}
	for _, b := range m.Beliefs(func(b Belief) bool { return true }) {
		text := fmt.Sprintf("caller-%d: api-%d %v -> %v, %v", b.Caller, b.Endpoint, b.From, b.To, b.Rule)
		if b.Fleet {
			text += ", as it was told"
		}
		if b.Refused != "" {
			text += " [refused: " + b.Refused + "]"
		}
		lines = append(lines, line{b.At, text})
	}
	for _, a := range m.Attempts(func(a Attempt) bool { return a.Class.Failure() }) {
		lines = append(lines, line{a.At, fmt.Sprintf("caller-%d: attempt on api-%d: %v, %v, status %d, after %v", a.Caller, a.Endpoint, a.Class, a.Ending, a.Status, a.Took)})
	}
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(a.at, b.at) })
	var out strings.Builder
	told := 0
	for _, l := range lines {
		if l.at < from {
			continue
		}
		if told++; told > 200 {
			out.WriteString("\n…")
			break
		}
		fmt.Fprintf(&out, "\n%+10.1f ms  %s", float64(l.at-from)/float64(time.Millisecond), l.text)
	}
	return out.String()
}
