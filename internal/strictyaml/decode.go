package strictyaml

import (
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Decode decodes one YAML document into the struct that into points to, then
// validates it. name stands for the file in problems. The error is Problems; into
// is written only if there is none.
//
// Each of fresh is called with a pointer to every list element, map value and
// optional value that the file makes, before the file is decoded over it: the
// place to give such a value its defaults, by a type switch. Lists are decoded
// after everything that stands beside them.
func Decode(name string, data []byte, into any, fresh ...func(value any)) error {
	return DecodeWith(name, data, into, func(any) {}, fresh...)
}

// DecodeWith is Decode for a configuration of which the file is a part only:
// complete is called with a pointer to what has been decoded, before it is
// validated, and may add the rest.
func DecodeWith(name string, data []byte, into any, complete func(decoded any), fresh ...func(value any)) error {
	target := reflect.ValueOf(into)
	if target.Kind() != reflect.Pointer || target.IsNil() || target.Elem().Kind() != reflect.Struct {
		panic("strictyaml: Decode wants a pointer to a struct")
	}
	d := decoder{file: name, lines: map[string]*token.Token{}, fresh: fresh}
	work := reflect.New(target.Elem().Type())
	work.Elem().Set(deepCopy(target.Elem()))

	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return Problems{syntaxProblem(name, err)}
	}
	bodies := slices.DeleteFunc(file.Docs, func(doc *ast.DocumentNode) bool { return doc.Body == nil })
	switch len(bodies) {
	case 0: // an empty file is a mapping without fields: every default stands
	case 1:
		d.node(bodies[0].Body, work.Elem(), "")
	default:
		d.problem(start(bodies[1].Body), "", "a second document: want one document in a file")
	}
	// A value that could not be read is not judged a second time.
	for _, p := range d.problems {
		d.unread = append(d.unread, p.Field)
	}
	complete(work.Interface())
	d.validate(work.Elem(), "")
	if len(d.problems) > 0 {
		return d.problems.sorted()
	}
	target.Elem().Set(work.Elem())
	return nil
}

// Validate asks every value inside v that can say whether it is valid, as Decode
// does after decoding. v is a struct or a pointer to one. The error is Problems
// without file and line.
func Validate(v any) error {
	value := reflect.ValueOf(v)
	if value.Kind() != reflect.Pointer {
		addressable := reflect.New(value.Type())
		addressable.Elem().Set(value)
		value = addressable
	}
	var d decoder
	d.validate(value.Elem(), "")
	if len(d.problems) > 0 {
		return d.problems
	}
	return nil
}

func syntaxProblem(name string, err error) Problem {
	p := Problem{File: name, Message: err.Error()}
	var syntax yaml.Error
	if errors.As(err, &syntax) {
		p.Message = syntax.GetMessage()
		if t := syntax.GetToken(); t != nil && t.Position != nil {
			p.Line, p.Column = t.Position.Line, t.Position.Column
		}
	}
	return p
}

type decoder struct {
	file     string
	problems Problems
	lines    map[string]*token.Token // field path → where it stands
	fresh    []func(value any)
	unread   []string // fields that the file does not give a value, for a mistake of form
}

// made gives a value that the file made its defaults.
func (d *decoder) made(v reflect.Value) {
	for _, f := range d.fresh {
		f(v.Addr().Interface())
	}
}

func (d *decoder) problem(at *token.Token, field, format string, args ...any) {
	p := Problem{File: d.file, Field: field, Message: fmt.Sprintf(format, args...)}
	if at != nil && at.Position != nil {
		p.Line, p.Column = at.Position.Line, at.Position.Column
	}
	d.problems = append(d.problems, p)
}

// node decodes one node of the tree into v, which is addressable.
func (d *decoder) node(n ast.Node, v reflect.Value, path string) {
	if path == "" || d.lines[path] == nil {
		d.lines[path] = start(n)
	}
	switch n := n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		// An alias makes one line mean several fields, and a bomb possible.
		d.problem(start(n), path, "anchors, aliases and tags are not supported: write the value out")
		return
	case *ast.NullNode:
		if v.Kind() != reflect.Struct && v.Kind() != reflect.Pointer {
			d.problem(start(n), path, "has no value: want %s", wanted(v.Type()))
		}
		return
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
			d.made(v.Elem())
		}
		d.node(n, v.Elem(), path)
		return
	}
	_, isText := v.Addr().Interface().(encoding.TextUnmarshaler)
	switch n := n.(type) {
	case *ast.MappingNode:
		d.mapping(n.Values, start(n), v, path)
	case *ast.MappingValueNode:
		d.mapping([]*ast.MappingValueNode{n}, start(n), v, path)
	case *ast.SequenceNode:
		if v.Kind() != reflect.Slice || isText {
			d.problem(start(n), path, "is a list: want %s", wanted(v.Type()))
			return
		}
		list := reflect.MakeSlice(v.Type(), len(n.Values), len(n.Values))
		for i, item := range n.Values {
			d.made(list.Index(i))
			d.node(item, list.Index(i), path+"["+strconv.Itoa(i)+"]")
		}
		v.Set(list)
	default:
		text, quoted := scalarText(n)
		if kind := v.Kind(); !isText && (kind == reflect.Struct || kind == reflect.Map || kind == reflect.Slice) {
			d.problem(start(n), path, "%q is a single value: want %s", text, wanted(v.Type()))
			return
		}
		if err := setScalar(v, text, quoted); err != nil {
			d.problem(start(n), path, "%s", err)
		}
	}
}

func (d *decoder) mapping(entries []*ast.MappingValueNode, at *token.Token, v reflect.Value, path string) {
	var fields map[string]reflect.Value
	switch v.Kind() {
	case reflect.Struct:
		fields = structFields(v)
	case reflect.Map:
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
	default:
		d.problem(at, path, "is a mapping: want %s", wanted(v.Type()))
		return
	}
	seen := map[string]*token.Token{}
	var known []*ast.MappingValueNode
	for _, entry := range entries {
		key := keyText(entry.Key)
		if first := seen[key]; first != nil {
			d.problem(entry.Key.GetToken(), join(path, key), "stands here a second time, first on line %d", first.Position.Line)
			continue
		}
		seen[key] = entry.Key.GetToken()
		d.lines[join(path, key)] = entry.Key.GetToken()
		if _, ok := fields[key]; fields == nil || ok {
			known = append(known, entry)
		} else {
			d.unknown(entry.Key.GetToken(), path, key, slices.Sorted(maps.Keys(fields)))
		}
	}
	// Lists come last: what stands beside a list may be a default of its
	// elements, wherever the file has it.
	slices.SortStableFunc(known, func(a, b *ast.MappingValueNode) int {
		return cmp.Compare(listRank(a.Value), listRank(b.Value))
	})
	for _, entry := range known {
		key := keyText(entry.Key)
		if fields != nil {
			d.node(entry.Value, fields[key], join(path, key))
			continue
		}
		value := reflect.New(v.Type().Elem()).Elem()
		d.made(value)
		d.node(entry.Value, value, join(path, key))
		v.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), value)
	}
}

func (d *decoder) unknown(at *token.Token, path, key string, known []string) {
	if near := Nearest(key, known); near != "" {
		d.unread = append(d.unread, join(path, near))
		d.problem(at, join(path, key), "unknown field: did you mean %q?", near)
	} else {
		d.problem(at, join(path, key), "unknown field: known here are %s", strings.Join(known, ", "))
	}
}

func listRank(n ast.Node) int {
	if _, ok := n.(*ast.SequenceNode); ok {
		return 1
	}
	return 0
}

// validate asks v and then everything inside it.
func (d *decoder) validate(v reflect.Value, path string) {
	if v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		if !v.IsNil() {
			d.validate(v.Elem(), path)
		}
		return
	}
	d.ask(v, path)
	switch v.Kind() {
	case reflect.Struct:
		for _, f := range fieldsOf(v.Type()) {
			switch {
			case f.inlined:
				// Its fields are asked as those of v; it may have something to say of them.
				d.ask(v.FieldByIndex(f.index), path)
			case f.asked:
				d.validate(v.FieldByIndex(f.index), join(path, f.name))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			d.validate(v.Index(i), path+"["+strconv.Itoa(i)+"]")
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			value := reflect.New(v.Type().Elem()).Elem() // map values have no address
			value.Set(it.Value())
			d.validate(value, join(path, it.Key().String()))
		}
	}
}

// ask notes what a value has to say of itself.
func (d *decoder) ask(v reflect.Value, path string) {
	if !v.CanAddr() {
		return
	}
	if asked, ok := v.Addr().Interface().(interface{ Validate() error }); ok {
		d.invalid(asked.Validate(), path)
	}
}

func (d *decoder) invalid(err error, path string) {
	if err == nil {
		return
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			d.invalid(e, path)
		}
		return
	}
	field, message := path, err.Error()
	if f, ok := err.(interface{ Field() string }); ok {
		field = join(path, f.Field())
		message = strings.TrimPrefix(message, f.Field()+": ")
	}
	if !slices.ContainsFunc(d.unread, func(unread string) bool { return contains(field, unread) || contains(unread, field) }) {
		d.problem(d.where(field), field, "%s", message)
	}
}

// contains says whether the path of a field leads to or through another.
func contains(field, inner string) bool {
	rest, ok := strings.CutPrefix(inner, field)
	return ok && (field == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
}

// where finds the line of a field, or of the nearest thing around it that the
// file mentions: a missing field is a problem of its parent.
func (d *decoder) where(field string) *token.Token {
	for {
		if t := d.lines[field]; t != nil || field == "" {
			return t
		}
		field = field[:max(0, strings.LastIndexAny(field, ".["))]
	}
}

// structFields maps the YAML names of a struct to its fields.
func structFields(v reflect.Value) map[string]reflect.Value {
	known := fieldsOf(v.Type())
	fields := make(map[string]reflect.Value, len(known))
	for _, f := range known {
		if !f.inlined {
			fields[f.name] = v.FieldByIndex(f.index)
		}
	}
	return fields
}

// field is one field of a struct type, by its YAML name.
type field struct {
	name  string
	index []int // as FieldByIndex takes it
	asked bool  // it, or something inside it, may have a Validate method
	// inlined: it is no field of the file, but a struct whose fields are, and which can
	// be asked. (One that is embedded is asked by the struct that it is part of, which
	// has its methods.)
	inlined bool
}

// fieldCache has the fields of the struct types that were met: a file with a thousand
// clusters asks for those of one type a thousand times.
var fieldCache sync.Map // of reflect.Type, []field

func fieldsOf(t reflect.Type) []field {
	if fields, ok := fieldCache.Load(t); ok {
		return fields.([]field)
	}
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if !f.IsExported() || name == "-" {
			continue
		}
		if options == "inline" {
			for _, inner := range fieldsOf(f.Type) {
				inner.index = append([]int{i}, inner.index...)
				fields = append(fields, inner)
			}
			if !f.Anonymous && reflect.PointerTo(f.Type).Implements(validator) {
				fields = append(fields, field{index: []int{i}, inlined: true})
			}
			continue
		}
		if name == "" {
			name = strings.ToLower(f.Name)
		}
		fields = append(fields, field{name: name, index: []int{i}, asked: asked(f.Type)})
	}
	fieldCache.Store(t, fields)
	return fields
}

var validator = reflect.TypeFor[interface{ Validate() error }]()

// asked reports whether validate can find anything to ask in a value of the type.
func asked(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Interface, reflect.Struct, reflect.Map:
		return true
	case reflect.Slice:
		return asked(t.Elem()) || reflect.PointerTo(t).Implements(validator)
	}
	return reflect.PointerTo(t).Implements(validator)
}

// deepCopy copies what decoding could write through: maps and pointers. Lists
// are replaced whole and need no copy.
func deepCopy(v reflect.Value) reflect.Value {
	c := reflect.New(v.Type()).Elem()
	c.Set(v)
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			c.Set(reflect.New(v.Type().Elem()))
			c.Elem().Set(deepCopy(v.Elem()))
		}
	case reflect.Map:
		if !v.IsNil() {
			c.Set(reflect.MakeMapWithSize(v.Type(), v.Len()))
			for it := v.MapRange(); it.Next(); {
				c.SetMapIndex(it.Key(), deepCopy(it.Value()))
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				c.Field(i).Set(deepCopy(v.Field(i)))
			}
		}
	}
	return c
}

// start is the token at which a node begins. A mapping's own token is the colon
// of its first entry, which is no place to point at.
func start(n ast.Node) *token.Token {
	switch n := n.(type) {
	case *ast.MappingNode:
		if len(n.Values) > 0 && !n.IsFlowStyle {
			return n.Values[0].Key.GetToken()
		}
	case *ast.MappingValueNode:
		return n.Key.GetToken()
	}
	return n.GetToken()
}

func keyText(k ast.MapKeyNode) string {
	if s, ok := k.(*ast.StringNode); ok {
		return s.Value
	}
	return k.GetToken().Value
}

func scalarText(n ast.Node) (text string, quoted bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		t := n.GetToken().Type
		return n.Value, t == token.SingleQuoteType || t == token.DoubleQuoteType
	case *ast.LiteralNode:
		return n.Value.Value, true
	}
	return n.GetToken().Value, false
}

func join(path, name string) string {
	switch {
	case path == "":
		return name
	case name == "":
		return path
	case strings.HasPrefix(name, "["):
		return path + name
	}
	return path + "." + name
}
