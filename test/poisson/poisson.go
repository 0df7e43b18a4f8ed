// Package poisson bounds how often what was seen a few times, or never, may happen.
package poisson

import "math"

// Upper is the exact upper 95 % bound of the mean of a Poisson variable of which k was
// seen: the mean at which k or fewer come up in one case of twenty. 3.0 for none.
func Upper(k int) float64 {
	low, high := 0.0, 10+4*float64(k)
	for range 100 {
		mid := (low + high) / 2
		if atMost(k, mid) > 0.05 {
			low = mid
		} else {
			high = mid
		}
	}
	return high
}

// atMost is the probability of k or fewer, summed from its largest terms.
func atMost(k int, mean float64) float64 {
	sum := 0.0
	for i := 0; i <= k; i++ {
		lg, _ := math.Lgamma(float64(i + 1))
		sum += math.Exp(float64(i)*math.Log(mean) - mean - lg)
	}
	return sum
}
