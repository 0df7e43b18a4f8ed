package resilience_test

import (
	"strings"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/resilience"
)

func TestARateLetsABurstThroughAndThenItsRate(t *testing.T) {
	for _, tt := range []struct {
		cfg           resilience.RateConfig
		burst, second int // at once; and in the second after, asked each millisecond
	}{
		{resilience.RateConfig{Rate: 10, Burst: 5}, 5, 10},
		{resilience.RateConfig{Rate: 10}, 10, 10},
		{resilience.RateConfig{Rate: 0.5}, 1, 0},
		{resilience.RateConfig{Rate: 1000, Burst: 1}, 1, 1000},
		{resilience.RateConfig{Rate: 0.001, Burst: 9000}, 9000, 0},
	} {
		r, now := resilience.NewRate(tt.cfg), time.Hour
		count := func(n int, every time.Duration) (allowed int) {
			for range n {
				now += every
				if r.Allow(now) {
					allowed++
				}
			}
			return allowed
		}
		if got := count(10_000, 0); got != tt.burst {
			t.Errorf("%+v: %d at once, want %d", tt.cfg, got, tt.burst)
		}
		if got := count(1000, time.Millisecond); got != tt.second {
			t.Errorf("%+v: %d in the second after, want %d", tt.cfg, got, tt.second)
		}
		now += 5000 * time.Hour
		if got := count(10_000, 0); got != tt.burst {
			t.Errorf("%+v: %d at once after a pause, want %d", tt.cfg, got, tt.burst)
		}
	}
	var none *resilience.Rate
	if !none.Allow(0) {
		t.Error("no rate forbids something")
	}
}

func TestAWrongRateNamesTheField(t *testing.T) {
	for _, cfg := range []resilience.RateConfig{{Rate: 0}, {Rate: -1}, {Rate: 1e9}, {Rate: 1e-12}} {
		if err := strictyaml.Validate(&cfg); err == nil || !strings.Contains(err.Error(), "rate: is ") {
			t.Errorf("%+v: %v, want an error about rate", cfg, err)
		}
	}
	if err := strictyaml.Validate(&resilience.RateConfig{Rate: 1, Burst: -1}); err == nil || !strings.Contains(err.Error(), "burst: is -1") {
		t.Errorf("got %v, want an error about burst", err)
	}
}
