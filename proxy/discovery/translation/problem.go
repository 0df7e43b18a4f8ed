package translation

import (
	"errors"
	"fmt"
	"strings"

	"github.com/overhear-mesh/overhear/xds/resource"
)

// enough problems of one resource are told; a peer can be wrong in ten thousand
// places.
const enough = 8

// problems collects what is wrong with one resource.
type problems struct {
	resource string
	errs     []error
	more     int
}

func newProblems(kind, name string) *problems {
	return &problems{resource: fmt.Sprintf("%s %q", kind, clip(name))}
}

func (p *problems) add(at, format string, args ...any) {
	if len(p.errs) == enough {
		p.more++
		return
	}
	p.errs = append(p.errs, &resource.FieldError{Resource: p.resource, Field: at, Problem: fmt.Sprintf(format, args...)})
}

// wrap adds what Validate says of a value that was made of what is at a path. at "" is
// the resource itself.
func (p *problems) wrap(at string, err error) {
	if err != nil {
		p.add(at, "%s", clip(strings.ReplaceAll(err.Error(), "\n", "; ")))
	}
}

func (p *problems) err() error {
	if p.more > 0 {
		return errors.Join(append(p.errs, fmt.Errorf("%s: and %d more", p.resource, p.more))...)
	}
	return errors.Join(p.errs...)
}

// clip bounds a string of a peer's for an error text.
func clip(s string) string {
	const most = 256
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
