package outlier

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestTheDefaultConfigIsValid(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
}

func TestAllWrongFieldsAreNamedAtOnce(t *testing.T) {
	c := DefaultConfig()
	c.Mode = "audit"
	c.HA = 5
	c.P0Min = 0.7 // above p0_max
	c.OverdueMax = 2 * time.Second
	c.MaxOut = math.NaN()
	c.HoldBase, c.HoldMax = time.Minute, time.Second
	err := c.Validate()
	var got []string
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		f, ok := errors.AsType[*FieldError](e)
		if !ok {
			t.Fatalf("%v is no *FieldError", e)
		}
		got = append(got, f.Field())
	}
	want := "mode h_a p0_min overdue_max max_out hold_base"
	if g := strings.Join(got, " "); g != want {
		t.Errorf("fields %q, want %q\n%v", g, want, err)
	}
}

// Every field with a name in the file must be checked by somebody.
func TestNoFieldEscapesValidation(t *testing.T) {
	typ := reflect.TypeFor[Config]()
	for i := range typ.NumField() {
		name := typ.Field(i).Tag.Get("yaml")
		if name == "" {
			t.Errorf("%s has no yaml name", typ.Field(i).Name)
		}
		if name == "-" {
			continue
		}
		c := DefaultConfig()
		switch v := reflect.ValueOf(&c).Elem().Field(i); v.Kind() {
		case reflect.String:
			v.SetString("nonsense")
		case reflect.Float64:
			v.SetFloat(-1)
		default: // int, time.Duration
			v.SetInt(-1)
		}
		err := c.Validate()
		if err == nil || !strings.Contains(err.Error(), name+": ") {
			t.Errorf("%s = nonsense is accepted: %v", name, err)
		}
	}
}
