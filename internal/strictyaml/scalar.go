package strictyaml

import (
	"encoding"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, written `512`, `64KiB`, `1MiB`, `10MB`.
type Size int64

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{
	// Longest suffix first: "B" ends all of them.
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30},
	{"KB", 1e3}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1},
}

// ParseSize reads a size as it stands in a file.
func ParseSize(s string) (Size, error) {
	number, unit := strings.TrimSpace(s), int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is no size: want a number of bytes such as 64KiB or 1MiB", s)
	}
	return Size(n * unit), nil
}

// String is the size in the largest binary unit that divides it.
func (s Size) String() string {
	for _, u := range []struct {
		suffix string
		bytes  Size
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if s != 0 && s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// MarshalText writes the size as a file would.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the size as ParseSize does.
func (s *Size) UnmarshalText(text []byte) error {
	v, err := ParseSize(string(text))
	if err == nil {
		*s = v
	}
	return err
}

// setScalar parses text into the value; the error says what was found and what
// was wanted. quoted tells that the file had the text in quotes: "5" is no number.
func setScalar(v reflect.Value, text string, quoted bool) error {
	if v.CanAddr() {
		if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
			err := u.UnmarshalText([]byte(text))
			if _, address := u.(*netip.AddrPort); address && err != nil {
				return fmt.Errorf("%q is no IP address with a port, such as 10.0.0.1:8080", text)
			}
			return err
		}
	}
	if v.Type() == reflect.TypeFor[time.Duration]() {
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is no duration: want a number with a unit such as 250ms, 10s or 5m", text)
		}
		v.SetInt(int64(d))
		return nil
	}
	if quoted && v.Kind() != reflect.String {
		return fmt.Errorf("%q in quotes is a string: want %s", text, wanted(v.Type()))
	}
	bad := func() error { return fmt.Errorf("%q is no %s", text, wanted(v.Type())) }
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		switch text {
		case "true":
			v.SetBool(true)
		case "false":
			v.SetBool(false)
		default:
			return bad()
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return bad()
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, v.Type().Bits())
		if err != nil {
			return bad()
		}
		v.SetUint(n)
	case reflect.Float32, reflect.Float64:
		number, percent := strings.CutSuffix(text, "%")
		f, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return bad()
		}
		if percent {
			f /= 100
		}
		v.SetFloat(f)
	default:
		return bad()
	}
	return nil
}

// wanted names a type in the words of the file's author.
func wanted(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "duration such as 250ms"
	case t == reflect.TypeFor[Size]():
		return "size such as 64KiB"
	case t.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()), reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return strings.ToLower(t.Name())
	}
	switch t.Kind() {
	case reflect.Pointer:
		return wanted(t.Elem())
	case reflect.Struct:
		return "mapping"
	case reflect.Map:
		return "mapping of names to " + wanted(t.Elem())
	case reflect.Slice, reflect.Array:
		return "list of " + wanted(t.Elem())
	case reflect.Bool:
		return "boolean (true or false)"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		bits := t.Bits()
		if bits == 64 {
			return "whole number from 0"
		}
		return fmt.Sprintf("whole number from 0 to %d", uint64(1)<<bits-1)
	case reflect.Float32, reflect.Float64:
		return "number or percentage such as 10%"
	}
	return "string"
}
