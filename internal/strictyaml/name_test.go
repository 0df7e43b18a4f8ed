package strictyaml_test

import (
	"testing"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
)

type colour uint8

func TestAValueHasTheNameByWhichItIsSet(t *testing.T) {
	names := []string{"red", "green"}
	var c colour
	if err := strictyaml.SetName(&c, names, []byte("green")); err != nil || c != 1 {
		t.Errorf("green is %d, %v; want 1", c, err)
	}
	if err := strictyaml.SetName(&c, names, []byte("blue")); err == nil || err.Error() != "want one of red, green" || c != 1 {
		t.Errorf("blue: got %v and %d, want the names, and what was there before", err, c)
	}
	for value, want := range map[colour]string{0: "red", 1: "green", 2: "colour(2)"} {
		if got := strictyaml.NameOf(value, names, "colour"); got != want {
			t.Errorf("%d is called %q, want %q", uint8(value), got, want)
		}
	}
}
