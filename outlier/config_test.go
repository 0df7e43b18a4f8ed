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
		case reflect.Bool:
			continue // both are allowed
		default: // int, time.Duration
			v.SetInt(-1)
		}
		err := c.Validate()
		if err == nil || !strings.Contains(err.Error(), name+": ") {
			t.Errorf("%s = nonsense is accepted: %v", name, err)
		}
	}
}

func TestTheCapIsRoundedDownButOneMayGoIfSo(t *testing.T) {
	for _, tt := range []struct {
		share     float64
		always    bool
		endpoints int
		want      int
	}{
		{0.5, false, 1, 0}, {0.5, false, 2, 1}, {0.5, false, 3, 1}, {0.5, false, 7, 3}, {0.5, true, 7, 3},
		{0.1, false, 9, 0}, {0.1, true, 9, 1}, {0.1, true, 19, 1}, {0.1, true, 20, 2},
		{0.29, false, 100, 29}, {0, true, 2, 1}, {0, true, 1, 0}, {0, false, 100, 0}, {1, false, 4, 4},
	} {
		c := Config{MaxOut: tt.share, AlwaysEjectOne: tt.always}
		if got := c.Cap(tt.endpoints); got != tt.want {
			t.Errorf("max_out %v, always_eject_one %t: %d of %d may be out, want %d", tt.share, tt.always, got, tt.endpoints, tt.want)
		}
	}
}

func TestARunHasALength(t *testing.T) {
	for _, n := range []int{0, 1, 5, 1000, runMost} {
		c := DefaultConfig()
		c.RunAny, c.RunGateway, c.RunLocal = n, n, n
		if err := c.Validate(); err != nil {
			t.Errorf("runs of %d: %v", n, err)
		}
	}
	c := DefaultConfig()
	c.RunLocal = runMost + 1
	if err := c.Validate(); err == nil {
		t.Errorf("a run of %d is accepted: it is never told from a shorter one", c.RunLocal)
	}
}
