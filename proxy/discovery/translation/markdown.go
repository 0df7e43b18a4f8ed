package translation

import (
	"fmt"
	"strings"
)

// Markdown are the tables as a part of a document.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| message, field | becomes |\n|---|---|\n")
	for _, t := range tables {
		d := t.of.ProtoReflect().Descriptor()
		fmt.Fprintf(&b, "| **%s** | |\n", d.FullName())
		p := plans()[d.FullName()]
		fmt.Fprint(&b, rows(p))
	}
	return b.String()
}

// rows are the fields of a message: those that are honoured one by one, the harmless by
// their reason, those without an entry together.
func rows(p *plan) string {
	var b strings.Builder
	var last *planned
	var names []string
	flush := func() {
		if last == nil {
			return
		}
		text := cell(last.text)
		switch last.use {
		case harmless:
			text = "accepted without effect: " + text
		case refused:
			text = "refused: " + text
		}
		if len(last.only) > 0 {
			text += "; only " + cell(alternatives(last.only))
		}
		fmt.Fprintf(&b, "| %s | %s |\n", strings.Join(names, ", "), text)
		last, names = nil, nil
	}
	var others []string
	for _, u := range []use{honoured, harmless, refused} {
		for i := range p.fields {
			f := &p.fields[i]
			if !f.listed || f.use != u {
				continue
			}
			if last == nil || last.text != f.text || last.use != f.use || len(f.only)+len(last.only) > 0 {
				flush()
			}
			last = f
			names = append(names, "`"+string(f.descriptor.Name())+"`")
		}
		flush()
	}
	for i := range p.fields {
		if f := &p.fields[i]; !f.listed {
			others = append(others, string(f.descriptor.Name()))
		}
	}
	if len(others) > 0 {
		fmt.Fprintf(&b, "| refused | %s |\n", strings.Join(others, ", "))
	}
	return b.String()
}

// cell is a text that does not end a cell of a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
