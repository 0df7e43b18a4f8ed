package translation

import (
	"fmt"
	"strings"

	"github.com/overhear-mesh/overhear/xds/resource"
)

// problems collects what is wrong with one resource.
type problems struct{ resource.Problems }

func newProblems(kind, name string) *problems {
	return &problems{resource.Problems{Resource: fmt.Sprintf("%s %q", kind, clip(name))}}
}

// wrap adds what Validate says of a value that was made of what is at a path. at "" is
// the resource itself.
func (p *problems) wrap(at string, err error) {
	if err != nil {
		p.Add(at, "%s", clip(strings.ReplaceAll(err.Error(), "\n", "; ")))
	}
}

// clip bounds a string of a peer's for an error text.
func clip(s string) string {
	const most = 256
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
