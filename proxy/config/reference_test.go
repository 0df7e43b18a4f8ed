package config

import (
	"bytes"
	"encoding"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
)

var update = flag.Bool("update", false, "write REFERENCE.md anew")

const referenceFile = "REFERENCE.md"

// The reference is made of the types' own comments, so that there is one place to
// write about a field, and it is complete, or this test says what is missing.
func TestTheReferenceIsComplete(t *testing.T) {
	r := reference{comments: map[string]*typeComments{}, seen: map[reflect.Type]string{}}
	example, err := os.ReadFile("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decode("example.yaml", example, func(string) (string, bool) { return "", false }); err != nil {
		t.Errorf("the example is wrong: %v", err)
	}
	fmt.Fprintf(&r.text, "%s\n## Example\n\n```yaml\n%s```\n", referenceHead, example)
	cfg := DefaultConfig()
	cfg.Node.ID = "" // that of this machine
	r.block("", "", reflect.ValueOf(cfg))
	for len(r.later) > 0 {
		next := r.later[0]
		r.later = r.later[1:]
		next()
	}
	for _, missing := range r.missing {
		t.Errorf("%s has no comment", missing)
	}
	if *update {
		if err := os.WriteFile(referenceFile, r.text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fixed(r.text.String()), fixed(string(got))); diff != "" {
		t.Errorf("%s is not what the types say: go generate ./proxy/config (-want +got):\n%s", referenceFile, diff)
	}
}

// fixed is what of the reference must be right: fields, their kinds and defaults, but
// not how a comment is worded.
func fixed(text string) (lines []string) {
	for line := range strings.Lines(text) {
		if cells := strings.SplitN(line, " | ", 4); len(cells) == 4 {
			line = strings.Join(cells[:3], " | ")
		}
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

const referenceHead = `# The sidecar's configuration file

Generated from the comments of the types: ` + "`go generate ./proxy/config`" + `. [README](../../README.md) shows how the blocks play together.

| what is written | looks like |
|---|---|
| duration | ` + "`250ms`, `10s`, `5m`" + ` |
| size | ` + "`64KiB`, `16MiB`" + `, or a number of bytes |
| number | ` + "`3`, `0.5`" + `; a share also as ` + "`10%`" + ` |
| yes or no | ` + "`true`, `false`" + ` |
| text | ` + "`api`, `\"127.0.0.1:8080\"`" + ` |
| list | ` + "`[a, b]`" + `, or a line with ` + "`- `" + ` for each |
| block | the fields of another table, in ` + "`{…}`" + ` or on lines of their own |

An unknown field, a wrong value or a field twice is refused, with its line and column; all problems are said at once.
`

// reference is being written.
type reference struct {
	text     bytes.Buffer
	comments map[string]*typeComments // by directory
	seen     map[reflect.Type]string  // where a block has its table
	later    []func()
	missing  []string
}

// block writes the table of a struct.
func (r *reference) block(at, about string, v reflect.Value) {
	title := "`" + at + "`"
	if at == "" {
		title = "The file"
	}
	r.seen[v.Type()] = at
	fmt.Fprintf(&r.text, "\n## %s\n\n", title)
	if about != "" {
		fmt.Fprintf(&r.text, "%s\n\n", about)
	}
	r.text.WriteString("| field | what | default | meaning |\n|---|---|---|---|\n")
	r.rows(at, v)
}

func (r *reference) rows(at string, v reflect.Value) {
	t := v.Type()
	c := r.commentsOf(t)
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("yaml")
		name, options, _ := strings.Cut(tag, ",")
		switch {
		case !f.IsExported() || name == "-":
			continue
		case options == "inline":
			r.rows(at, v.Field(i))
			continue
		}
		path := name
		if at != "" {
			path = at + "." + name
		}
		meaning := c.field(t, f.Name)
		if block := blockOf(f.Type); meaning == "" && block != nil {
			meaning, _, _ = strings.Cut(r.commentsOf(block).about(block, name), ". ")
		}
		if meaning == "" {
			r.missing = append(r.missing, path)
		}
		what, link := r.kind(path, f.Type, v.Field(i))
		fmt.Fprintf(&r.text, "| `%s` | %s | %s | %s |\n", name, what+link, shown(v.Field(i)), strings.ReplaceAll(meaning, "|", "\\|"))
	}
}

// blockOf is the struct that a field is, or is made of; nil: it is none.
func blockOf(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() == reflect.Struct && !isText(t) {
		return t
	}
	return nil
}

func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// kind names the type of a field, and sees to it that a block gets its table.
func (r *reference) kind(path string, t reflect.Type, v reflect.Value) (what, link string) {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "duration", ""
	case t == reflect.TypeFor[strictyaml.Size]():
		return "size", ""
	case isText(t):
		return "a name", ""
	}
	switch t.Kind() {
	case reflect.Pointer:
		made := reflect.New(t.Elem())
		defaults(made.Interface())
		return r.kind(path, t.Elem(), made.Elem())
	case reflect.Slice:
		made := reflect.New(t.Elem())
		defaults(made.Interface())
		what, link = r.kind(path+"[]", t.Elem(), made.Elem())
		return "list of " + what, link
	case reflect.Map:
		made := reflect.New(t.Elem())
		defaults(made.Interface())
		what, link = r.kind(path+".NAME", t.Elem(), made.Elem())
		return what + " by name", link
	case reflect.Struct:
		table, ok := r.seen[t]
		if !ok {
			table, r.seen[t] = path, path
			about := r.commentsOf(t).about(t, path)
			r.later = append(r.later, func() { r.block(path, about, v) })
		}
		return "block", fmt.Sprintf(" [`%s`](#%s)", table, anchor(table))
	case reflect.Bool:
		return "yes or no", ""
	case reflect.String:
		return "text", ""
	}
	return "number", ""
}

// anchor is what becomes of a heading in a link on GitHub.
func anchor(heading string) string {
	return regexp.MustCompile(`[^a-z0-9_-]`).ReplaceAllString(strings.ToLower(heading), "")
}

// shown is a default as the file would have it.
func shown(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Struct:
		if !isText(v.Type()) {
			return ""
		}
	case reflect.Pointer:
		return "none"
	case reflect.Slice, reflect.Map, reflect.String:
		if v.Len() == 0 {
			return "none"
		}
	}
	return "`" + plain(v) + "`"
}

// plain is a value as people write it.
func plain(v reflect.Value) string {
	switch value := v.Interface().(type) {
	case time.Duration:
		text := value.String()
		for _, zero := range []string{"m0s", "h0m"} {
			if rest, ok := strings.CutSuffix(text, zero); ok {
				text = rest + zero[:1]
			}
		}
		return text
	case encoding.TextMarshaler:
		text, err := value.MarshalText()
		if err != nil {
			panic(err)
		}
		return string(text)
	}
	if v.Kind() != reflect.Slice {
		return fmt.Sprint(v.Interface())
	}
	var items []string
	for i := range v.Len() {
		items = append(items, plain(v.Index(i)))
	}
	return "[" + strings.Join(items, ", ") + "]"
}

// typeComments are the comments of the types of one directory.
type typeComments struct {
	types  map[string]string            // of types
	fields map[string]map[string]string // of their fields
}

func (r *reference) commentsOf(t reflect.Type) *typeComments {
	const module = "github.com/overhear-mesh/overhear/"
	dir := filepath.Join("../..", strings.TrimPrefix(t.PkgPath(), module))
	if c := r.comments[dir]; c != nil {
		return c
	}
	c := &typeComments{types: map[string]string{}, fields: map[string]map[string]string{}}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		panic(fmt.Sprintf("no source of %v in %s: %v", t, dir, err))
	}
	for _, name := range files {
		if !strings.HasSuffix(name, "_test.go") {
			c.read(name)
		}
	}
	r.comments[dir] = c
	return c
}

func (c *typeComments) read(name string) {
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
	if err != nil {
		panic(err)
	}
	for _, d := range file.Decls {
		gen, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range gen.Specs {
			def, ok := spec.(*ast.TypeSpec)
			if !ok {
				continue
			}
			doc := def.Doc
			if doc == nil {
				doc = gen.Doc
			}
			c.types[def.Name.Name] = doc.Text()
			if s, ok := def.Type.(*ast.StructType); ok {
				c.fields[def.Name.Name] = fieldComments(s)
			}
		}
	}
}

// fieldComments are by field. What has none of its own shares that of a field above
// which names it.
func fieldComments(s *ast.StructType) map[string]string {
	out := map[string]string{}
	above := ""
	for _, f := range s.Fields.List {
		text := f.Doc.Text()
		if text == "" {
			text = f.Comment.Text()
		}
		if text != "" {
			above = text
		}
		for _, name := range f.Names {
			switch {
			case text != "":
				out[name.Name] = text
			case regexp.MustCompile(`\b` + name.Name + `\b`).MatchString(above):
				out[name.Name] = above
			}
		}
	}
	return out
}

// about is the comment of a type, which is called by what the file calls it.
func (c *typeComments) about(t reflect.Type, name string) string {
	text := c.words(t, c.types[t.Name()])
	if rest, ok := strings.CutPrefix(text, t.Name()+" "); ok {
		return "`" + name + "` " + rest
	}
	return text
}

func (c *typeComments) field(t reflect.Type, name string) string {
	return c.words(t, c.fields[t.Name()][name])
}

var (
	word = regexp.MustCompile(`[A-Z][A-Za-z0-9]*`)
	// inside is a word with a capital that begins no sentence, and what follows.
	inside = regexp.MustCompile(`([a-z0-9,;"/)] )([A-Z][a-z]+)( header| \(|)`)
	// godoc is what only the documentation of the package has a link for.
	godoc = regexp.MustCompile(` \((?:\[[A-Z][\w.]*\](?:, )?)+\)|; see \[[A-Z]\w*\]`)
	// named are the fields that a comment begins with.
	named = regexp.MustCompile(`^[A-Z]\w*(, [A-Z]\w*)*( and [A-Z]\w*)?`)
)

// words puts the names that files use in the place of those of Go.
func (c *typeComments) words(t reflect.Type, text string) string {
	names := map[string]string{}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		names[t.Field(i).Name] = name
	}
	text = godoc.ReplaceAllString(strings.Join(strings.Fields(text), " "), "")
	begin := len(named.FindString(text))
	head := word.ReplaceAllStringFunc(text[:begin], func(w string) string {
		if names[w] != "" {
			return "`" + names[w] + "`"
		}
		return w
	})
	rest := word.ReplaceAllStringFunc(text[begin:], func(w string) string {
		if names[w] != "" && strings.ToLower(w[1:]) != w[1:] {
			return "`" + names[w] + "`"
		}
		return w
	})
	// A name of one word is told from the beginning of a sentence, and of a header's
	// name, by where it stands.
	return head + inside.ReplaceAllStringFunc(rest, func(s string) string {
		m := inside.FindStringSubmatch(s)
		if names[m[2]] == "" || m[3] == " header" || m[3] == " (" {
			return s
		}
		return m[1] + "`" + names[m[2]] + "`" + m[3]
	})
}
