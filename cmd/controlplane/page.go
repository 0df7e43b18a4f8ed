package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"
)

// page writes text until the first error, and remembers that.
type page struct {
	w   io.Writer
	err error
}

func (p *page) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// table writes lines of cells that are separated by tabs, as columns.
func (p *page) table(lines func(line func(format string, args ...any))) {
	if p.err != nil {
		return
	}
	t := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	columns := &page{w: t}
	lines(func(format string, args ...any) { columns.printf(format+"\n", cells(args)...) })
	if p.err = columns.err; p.err == nil {
		p.err = t.Flush()
	}
}

// cells are values without what begins another cell or line, or commands a terminal: some
// are in the words of clients. Envoy refuses a resource in several lines.
func cells(values []any) []any {
	for i, v := range values {
		if text, ok := v.(string); ok {
			values[i] = strings.Map(func(r rune) rune {
				if unicode.IsControl(r) {
					return ' '
				}
				return r
			}, text)
		}
	}
	return values
}
