// Package strictyaml decodes a YAML file strictly and says everything that is
// wrong with it at once.
//
// A configuration that is nearly right is worse than one that is refused: a
// misspelt key silently leaves a default in place. So an unknown, repeated or
// mistyped field is a [Problem] with file, line, column, field path and, where
// a known name is near, a suggestion; and all problems of a file are reported
// together, because nobody likes to mend a file one error at a time. Nothing is
// written to the target unless the whole file is good.
//
// Syntax is parsed by github.com/goccy/go-yaml; the walk over its tree is our
// own, since a decoder that stops at the first error cannot report the rest.
//
// # Types
//
// Structs are matched by their `yaml:"name"` tags (`yaml:",inline"` merges an
// embedded struct, `yaml:"-"` hides a field); maps need string keys; a pointer
// marks something optional. Scalars: bool, integers, floats (also `10%`),
// strings, [time.Duration] (`250ms`), [Size] (`64KiB`) and whatever implements
// [encoding.TextUnmarshaler]. A value already in the target is its default and
// survives where the file is silent, except that a list replaces a list.
//
// # Validation
//
// After decoding, whatever mistakes of form there were, every value in the target
// that has a method
// Validate() error is asked, outermost first; a field that could not be read is
// not judged a second time. An error, or each error of an
// errors.Join, that has a method Field() string is placed at that field's line;
// the field is relative to the value that was asked, like "endpoints[2].address".
// A Validate method therefore speaks of its own fields only and need not call
// those of the values inside it. [Validate] does the same for a configuration
// that was built in Go.
package strictyaml
