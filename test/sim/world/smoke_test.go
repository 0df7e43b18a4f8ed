package world

import (
	"testing"
	"time"
)

func TestSmoke(t *testing.T) {
	for _, text := range []string{
		"at 0s endpoint 3: crash", "at 0s endpoint 3: errors 20%", "at 0s endpoint 3: errors 50%", "at 0s endpoint 3: hang",
		"rate 0.5\nlength 60s\nat 0s endpoint 3: crash", "at 0s endpoint 3: crash\nat 20s endpoint 3: heal\nlength 60s",
	} {
		s, err := Parse("x", text)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		l := New(s, Overhear("overhear", Options{}), 1).Run()
		took := time.Since(began)
		t.Logf("%s: %d attempts in %v: %.0f/s\n%v", text, l.Attempts(), took, float64(l.Attempts())/took.Seconds(), l.Figures())
	}
}
