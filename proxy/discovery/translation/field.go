package translation

import (
	"fmt"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

// use is what becomes of a field that is set.
type use uint8

const (
	honoured use = iota // it becomes a setting of ours
	harmless            // it is accepted: nothing that a request could notice hangs on it
	refused             // as every field without an entry, but with advice
)

// field is an entry of a table.
type field struct {
	name protoreflect.Name
	use  use
	// text is the setting that a honoured field becomes, why another is harmless, or
	// what to use instead of one that is refused.
	text string
	// only are the values that are honoured, if not all: true, a duration, the name of
	// an enumerated value.
	only []any
	// opaque: the message in it has no table, the translation knows it.
	opaque bool
}

// message is a table.
type message struct {
	of     proto.Message
	fields []field
}

// as makes an entry of a field that becomes a setting of ours.
func as(text string, names ...protoreflect.Name) []field { return entries(honoured, text, names) }

// just makes an entry of a field of which only some values are honoured.
func just(name protoreflect.Name, text string, values ...any) []field {
	return []field{{name: name, use: honoured, text: text, only: values}}
}

// opaque makes an entry of a field whose message the translation reads by itself.
func opaque(text string, names ...protoreflect.Name) []field {
	all := entries(honoured, text, names)
	for i := range all {
		all[i].opaque = true
	}
	return all
}

// fine makes entries of fields that change nothing.
func fine(text string, names ...protoreflect.Name) []field { return entries(harmless, text, names) }

// instead makes entries of refused fields for which there is something else.
func instead(text string, names ...protoreflect.Name) []field { return entries(refused, text, names) }

func entries(u use, text string, names []protoreflect.Name) []field {
	all := make([]field, len(names))
	for i, name := range names {
		all[i] = field{name: name, use: u, text: text}
	}
	return all
}

// of makes a table.
func of(m proto.Message, fields ...[]field) message {
	return message{of: m, fields: slices.Concat(fields...)}
}

// plan is a table, made ready for the walk.
type plan struct {
	name   protoreflect.FullName
	fields []planned // all fields of the message
}

type planned struct {
	field
	descriptor protoreflect.FieldDescriptor
	label      string // its name
	listed     bool
	sub        *plan // of the message in it
	// leaf: there is nothing in it to look at.
	leaf bool
}

// plans are all tables by the name of their message: made when first a listener is
// translated, since most sidecars never do, and the descriptors take memory.
var plans = sync.OnceValue(func() map[protoreflect.FullName]*plan { return compile(tables) })

func compile(tables []message) map[protoreflect.FullName]*plan {
	all := make(map[protoreflect.FullName]*plan, len(tables))
	for _, t := range tables {
		d := t.of.ProtoReflect().Descriptor()
		if all[d.FullName()] != nil {
			panic("translation: two tables for " + d.FullName())
		}
		p := &plan{name: d.FullName()}
		for i := range d.Fields().Len() {
			p.fields = append(p.fields, planned{descriptor: d.Fields().Get(i), label: string(d.Fields().Get(i).Name())})
		}
		for _, f := range t.fields {
			i := slices.IndexFunc(p.fields, func(have planned) bool { return have.descriptor.Name() == f.name })
			if i < 0 || p.fields[i].listed {
				panic(fmt.Sprintf("translation: the table of %s has %s, which is no field, or is there already", d.FullName(), f.name))
			}
			p.fields[i].field, p.fields[i].listed = f, true
		}
		all[d.FullName()] = p
	}
	for _, p := range all {
		for i := range p.fields {
			f := &p.fields[i]
			m := f.descriptor.Message()
			if m != nil {
				f.sub = all[m.FullName()]
			}
			value := m == nil || m.ParentFile().Package() == wellKnown && m.Name() != "Any" && !f.descriptor.IsMap()
			f.leaf = f.listed && f.use == honoured && len(f.only) == 0 && (value || f.opaque)
		}
	}
	return all
}

// honours reports whether a value is among those that the entry names.
func (f *planned) honours(v protoreflect.Value) bool {
	return len(f.only) == 0 || slices.Contains(f.only, plain(f.descriptor, v))
}

// plain is a value as entries name it: wrappers are opened, durations are durations.
func plain(fd protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch {
	case fd.Enum() != nil:
		if named := fd.Enum().Values().ByNumber(v.Enum()); named != nil {
			return string(named.Name())
		}
		return int32(v.Enum())
	case fd.Message() == nil:
		return v.Interface()
	}
	m := v.Message()
	if d, ok := m.Interface().(*durationpb.Duration); ok {
		return d.AsDuration()
	}
	if inner := m.Descriptor().Fields().ByName("value"); inner != nil && m.Descriptor().ParentFile().Package() == wellKnown {
		return plain(inner, m.Get(inner))
	}
	return m.Interface()
}

// wellKnown is the package of messages that are values: durations, wrappers, Any.
const wellKnown = "google.protobuf"
