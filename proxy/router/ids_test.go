package router

import (
	"math"
	"strconv"
	"testing"
)

func TestNumbersRunOutWithoutHarm(t *testing.T) {
	var ids IDs
	for i := 1; i <= math.MaxUint16; i++ {
		if got := ids.of(strconv.Itoa(i)); int(got) != i {
			t.Fatalf("name %d: got number %d", i, got)
		}
	}
	if got := ids.of("one too many"); got != 0 {
		t.Errorf("one name too many: got %d, want 0", got)
	}
	if got := ids.of("1"); got != 1 {
		t.Errorf("a known name, afterwards: got %d, want 1", got)
	}
}
