package sim

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Median is the middle value, the mean of the middle two of an even number.
func Median[T time.Duration | float64](values []T) T {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}

// Quantile is the smallest value that at least the share q of the values do not
// exceed.
func Quantile[T cmp.Ordered](values []T, q float64) T {
	var zero T
	if len(values) == 0 {
		return zero
	}
	s := slices.Sorted(slices.Values(values))
	i := int(q*float64(len(s))+0.999999) - 1
	return s[min(max(i, 0), len(s)-1)]
}

// Table prints figures in aligned columns.
type Table struct {
	Title  string
	header []string
	rows   [][]string
}

// NewTable returns a table with these columns.
func NewTable(title string, header ...string) *Table { return &Table{Title: title, header: header} }

// Row adds a line. Durations are shown in milliseconds.
func (t *Table) Row(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		switch c := c.(type) {
		case time.Duration:
			row[i] = fmt.Sprintf("%.1f ms", float64(c)/float64(time.Millisecond))
		case float64:
			row[i] = fmt.Sprintf("%.3g", c)
		default:
			row[i] = fmt.Sprint(c)
		}
	}
	t.rows = append(t.rows, row)
}

// Print writes the table to the test's output.
func (t *Table) Print(tb testing.TB) {
	width := make([]int, len(t.header))
	for _, row := range append([][]string{t.header}, t.rows...) {
		for i, c := range row {
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "\n%s\n", t.Title)
	for i, row := range append([][]string{t.header}, t.rows...) {
		for j, c := range row {
			pad := strings.Repeat(" ", width[j]-len([]rune(c)))
			if j == 0 {
				out.WriteString("| " + c + pad + " |")
			} else {
				out.WriteString(" " + pad + c + " |")
			}
		}
		out.WriteByte('\n')
		if i == 0 {
			for j := range width {
				sep := strings.Repeat("-", width[j]+2)
				if j > 0 {
					sep = sep[:len(sep)-1] + ":"
				}
				out.WriteString("|" + sep)
			}
			out.WriteString("|\n")
		}
	}
	fmt.Fprint(tb.Output(), out.String())
}

// Removal is how a fleet got off an endpoint.
type Removal struct {
	First    time.Duration // when the first failed attempt on it began; -1: there was none
	Off      time.Duration // when the last caller took it out, or gave it its share of a suspension
	All      bool          // all callers did
	Last     time.Duration // when the last attempt before its recovery began
	Attempts int           // failed, of the fleet
	Failed   int           // repeatable requests that failed, wherever they were tried
	FailedOn int           // requests that must not be sent twice, and failed
}

// Removal tells of what happened to an endpoint between two instants, of which the
// first is the beginning of its fault.
func (m *Mesh) Removal(endpoint int, from, to time.Duration) Removal {
	r := Removal{First: -1}
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
	for _, b := range m.Beliefs(func(b Belief) bool { return b.Endpoint == endpoint && b.At >= from && b.At < to && b.Refused == "" }) {
		if _, known := off[b.Caller]; !known && (b.To == outlier.Ejected || b.To == outlier.Suspended) {
			off[b.Caller] = b.At
			r.Off = max(r.Off, b.At)
		}
	}
	r.All = len(off) == len(m.Callers)
	for _, q := range m.Requests(func(q Request) bool { return q.At+q.Took >= from && q.At < to && q.Failed() }) {
		if q.Repeatable {
			r.Failed++
		} else {
			r.FailedOn++
		}
	}
	return r
}

// FalseOuts are the changes by which any caller took out an endpoint other than those
// named, from an instant on.
func (m *Mesh) FalseOuts(from time.Duration, except ...int) []Belief {
	return m.Beliefs(func(b Belief) bool {
		return b.At >= from && b.Refused == "" && !b.Shadow && !slices.Contains(except, b.Endpoint) &&
			b.From == outlier.In && (b.To == outlier.Ejected || b.To == outlier.Suspended)
	})
}
