package poisson

import (
	"math"
	"testing"
)

// The bounds are tabulated: Garwood 1936; one-sided 95 %.
func TestBoundsAreExact(t *testing.T) {
	for k, want := range map[int]float64{0: 2.9957, 1: 4.7439, 2: 6.2958, 5: 10.5130, 10: 16.9622, 100: 118.08} {
		if got := Upper(k); math.Abs(got-want) > 0.01 {
			t.Errorf("%d events: at most %.4f, want %.4f", k, got, want)
		}
	}
}
