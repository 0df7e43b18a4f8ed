package world

import (
	"fmt"
	"testing"

	"github.com/overhear-mesh/overhear/test/cputime"
)

// BenchmarkSoak is the price of a healthy mesh at a low rate, where detectors step
// about as often as attempts are made, in endpoint-hours per second of CPU.
func BenchmarkSoak(b *testing.B) {
	for _, base := range []string{"0%", "0.1%", "1%", "3%", "5%"} {
		b.Run(base, func(b *testing.B) {
			benchmark(b, fmt.Sprintf("callers 4\nendpoints 20\nrate 4\nbase %s\nwarmup 0s\nlength 60m", base))
		})
	}
}

// BenchmarkLoad is the price of attempts.
func BenchmarkLoad(b *testing.B) { benchmark(b, "rate 500\nwarmup 0s\nlength 60s") }

func benchmark(b *testing.B, text string) {
	s, err := Parse("bench", text)
	if err != nil {
		b.Fatal(err)
	}
	var attempts int64
	began := cputime.Used()
	for b.Loop() {
		attempts += New(s, Overhear("overhear", Options{}), 1).Run().Attempts()
	}
	seconds := (cputime.Used() - began).Seconds()
	b.ReportMetric(float64(attempts)/seconds, "attempts/cpu-s")
	b.ReportMetric(float64(b.N)*s.Length.Hours()*float64(s.Endpoints)/seconds, "endpoint-h/cpu-s")
}
