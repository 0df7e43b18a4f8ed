package translation

import (
	"fmt"
	"strings"
	"unicode"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// walk finds every field that is set and that nobody honours of a message, for which
// there is a table, that stands at a path.
func walk(m proto.Message, at string, p *problems) {
	w := walker{problems: p, path: []step{{name: at, index: -1}}}
	r := m.ProtoReflect()
	w.message(plans()[r.Descriptor().FullName()], r)
}

// walker is somewhere in a message. The path is made into text only when there is
// something to say.
type walker struct {
	problems *problems
	path     []step
}

type step struct {
	name  string
	index int    // of a list; -1: none
	key   string // of a map
}

func (w *walker) at(more ...string) string {
	var b strings.Builder
	for _, s := range w.path {
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(s.name)
		switch {
		case s.index >= 0:
			fmt.Fprintf(&b, "[%d]", s.index)
		case s.key != "":
			fmt.Fprintf(&b, "[%q]", clip(s.key))
		}
	}
	for _, name := range more {
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(name)
	}
	return b.String()
}

// message walks a message for which there is a plan.
func (w *walker) message(p *plan, m protoreflect.Message) {
	if unknown := m.GetUnknown(); len(unknown) > 0 {
		number, _, _ := protowire.ConsumeTag(unknown)
		w.problems.Add(w.at(), "%s has a field %d that this version does not know", p.name, number)
	}
	for i := range p.fields {
		f := &p.fields[i]
		if !f.leaf && (!f.listed || f.use != harmless) && m.Has(f.descriptor) {
			w.field(f, m.Get(f.descriptor))
		}
	}
}

// field looks at a field that is set and not harmless.
func (w *walker) field(f *planned, v protoreflect.Value) {
	name := f.label
	switch {
	case !f.listed:
		w.problems.Add(w.at(name), "is not supported")
	case f.use == refused:
		w.problems.Add(w.at(name), "is not supported: %s", f.text)
	case !f.honours(v):
		w.problems.Add(w.at(name), "is %v: want %s", plain(f.descriptor, v), alternatives(f.only))
	case f.opaque || f.descriptor.Message() == nil: // but for its value
	case f.descriptor.IsMap():
		v.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
			if f.descriptor.MapValue().Message() != nil {
				w.push(step{name: name, index: -1, key: key.String()}, nil, value.Message())
			}
			return true
		})
	case f.descriptor.IsList():
		list := v.List()
		for i := range list.Len() {
			w.push(step{name: name, index: i}, f.sub, list.Get(i).Message())
		}
	default:
		w.push(step{name: name, index: -1}, f.sub, v.Message())
	}
}

// push walks into a message, of which p is the plan if it is known.
func (w *walker) push(s step, p *plan, m protoreflect.Message) {
	w.path = append(w.path, s)
	w.enter(p, m)
	w.path = w.path[:len(w.path)-1]
}

func (w *walker) enter(p *plan, m protoreflect.Message) {
	if p != nil {
		w.message(p, m)
		return
	}
	if a, ok := m.Interface().(*anypb.Any); ok {
		w.any(a)
		return
	}
	if p := plans()[m.Descriptor().FullName()]; p != nil {
		w.message(p, m)
	} else if m.Descriptor().ParentFile().Package() != wellKnown {
		w.problems.Add(w.at(), "%s is not supported", m.Descriptor().FullName())
	}
}

// any walks into a message that says itself what it is. In the path its type stands in
// the place of a name that says nothing.
func (w *walker) any(a *anypb.Any) {
	inner, err := a.UnmarshalNew()
	if err != nil {
		if strings.Contains(a.GetTypeUrl(), ".transport_sockets.tls.") {
			w.problems.Add(w.at(), "is not supported: there is no TLS yet")
			return
		}
		w.problems.Add(w.at(), "%q is not supported", clip(a.GetTypeUrl()))
		return
	}
	m := inner.ProtoReflect()
	p := plans()[m.Descriptor().FullName()]
	if p == nil {
		w.problems.Add(w.at(), "%s is not supported", m.Descriptor().FullName())
		return
	}
	if last := &w.path[len(w.path)-1]; last.name == typedConfig {
		last.name = snake(string(m.Descriptor().Name()))
	}
	w.message(p, m)
}

// typedConfig is what Envoy calls every field for an extension.
const typedConfig = "typed_config"

// snake writes HttpConnectionManager as http_connection_manager.
func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) {
			if i > 0 {
				b.WriteByte('_')
			}
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}

func alternatives(values []any) string {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = fmt.Sprint(v)
	}
	return strings.Join(words, ", ")
}
