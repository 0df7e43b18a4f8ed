package world

import "testing"

// BenchmarkSoak is the price of a healthy mesh at a low rate, where detectors step
// about as often as attempts are made.
func BenchmarkSoak(b *testing.B) {
	benchmark(b, "callers 4\nendpoints 20\nrate 4\nbase 1%\nwarmup 0s\nlength 60m")
}

// BenchmarkLoad is the price of attempts.
func BenchmarkLoad(b *testing.B) { benchmark(b, "rate 500\nwarmup 0s\nlength 60s") }

func benchmark(b *testing.B, text string) {
	s, err := Parse("bench", text)
	if err != nil {
		b.Fatal(err)
	}
	var attempts int64
	for b.Loop() {
		attempts += New(s, Overhear("overhear", Options{}), 1).Run().Attempts()
	}
	b.ReportMetric(float64(attempts)/b.Elapsed().Seconds(), "attempts/s")
}
