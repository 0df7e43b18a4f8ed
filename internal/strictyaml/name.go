package strictyaml

import (
	"fmt"
	"slices"
	"strings"
)

// NameOf is the String of a type whose values are named by a list; a value that has no
// name is kind(value).
func NameOf[T ~uint8](value T, names []string, kind string) string {
	if int(value) < len(names) {
		return names[value]
	}
	return fmt.Sprintf("%s(%d)", kind, uint8(value))
}

// SetName is the UnmarshalText of a type whose values are named by a list: it sets
// into to the index of text, or says which names there are.
func SetName[T ~uint8](into *T, names []string, text []byte) error {
	i := slices.Index(names, string(text))
	if i < 0 {
		return fmt.Errorf("want one of %s", strings.Join(names, ", "))
	}
	*into = T(i)
	return nil
}
