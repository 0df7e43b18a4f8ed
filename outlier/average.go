package outlier

import (
	"math"
	"time"
)

// rateWindow is over how long rates are averaged.
const rateWindow = 30 * time.Second

// average is an exponentially weighted mean over rateWindow that is not
// drawn to 0 by the time before it began.
type average struct{ value, weight float64 }

func (a *average) add(x float64, dt time.Duration) {
	w := -math.Expm1(-dt.Seconds() / rateWindow.Seconds())
	a.value += (x - a.value) * w
	a.weight += (1 - a.weight) * w
}

func (a *average) mean() float64 {
	if a.weight == 0 {
		return 0
	}
	return a.value / a.weight
}

// tokens is a token bucket: rate tokens per second, at most rate of them.
type tokens struct {
	level float64
	at    time.Duration
	begun bool
}

func (t *tokens) take(rate float64, now time.Duration) bool {
	if !t.begun {
		t.begun, t.level = true, rate
	} else {
		t.level = min(rate, t.level+rate*(now-t.at).Seconds())
	}
	t.at = now
	if t.level < 1 {
		return false
	}
	t.level--
	return true
}
