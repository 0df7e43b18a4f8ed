package strictyaml

import "fmt"

// Invalid is an error of a Validate method that knows which field is wrong. The
// field is relative to the value that was asked, like "endpoints[2].address".
func Invalid(field, format string, args ...any) error {
	return &invalid{field: field, message: fmt.Sprintf(format, args...)}
}

type invalid struct{ field, message string }

func (e *invalid) Error() string { return e.field + ": " + e.message }
func (e *invalid) Field() string { return e.field }
