package mesh

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
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

// Print writes the table to the test's output, if it has rows.
func (t *Table) Print(tb testing.TB) {
	if len(t.rows) == 0 {
		return
	}
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
