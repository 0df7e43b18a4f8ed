package translation

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the document anew")

// document is for those who write resources.
const document = "FIELDS.md"

const documentHead = `# What a sidecar makes of standard xDS resources

Field by field; settings are those of [the sidecar's file](../../config/REFERENCE.md). A resource with a field that is refused, or that stands in no
table, is refused as a whole, by the path of the field. Generated from the tables that the code works by: ` + "`" + `go generate ./proxy/discovery/translation` + "`" + `.

`

func TestTheDocumentHasTheTablesOfToday(t *testing.T) {
	want := markdown()
	if *update {
		if err := os.WriteFile(document, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s has not the tables of the code: go generate ./proxy/discovery/translation (-want +got):\n%s", document, diff)
	}
}

// markdown are the tables as a document.
func markdown() string {
	var b strings.Builder
	b.WriteString(documentHead)
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
