package strictyaml

import (
	"fmt"
	"slices"
	"strings"
)

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
