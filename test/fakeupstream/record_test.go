package fakeupstream

import (
	"testing"
	"time"
)

func TestWhatIsForgottenIsCounted(t *testing.T) {
	var b Backend
	for range keep - 1 {
		b.record.arrived(Arrival{})
	}
	if c := b.Counts(); c.Forgotten != 0 {
		t.Errorf("%d of %d are forgotten, want none", c.Forgotten, c.Requests)
	}
	b.record.arrived(Arrival{})
	c, known := b.Counts(), len(b.Arrivals(time.Time{}))
	if c.Forgotten == 0 || c.Forgotten+known != c.Requests {
		t.Errorf("%d are forgotten and %d known of %d", c.Forgotten, known, c.Requests)
	}
}
