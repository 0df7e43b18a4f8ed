package outlier

import "time"

// Stalled reports whether an attempt that began no later than since still awaits its
// answer at now, and none has been given from then on: whoever asks the endpoint for
// something will wait as well.
func (e *Endpoint) Stalled(since, now time.Duration) bool {
	if answer := e.answer.Load(); answer != 0 && answer>>spanEnd > millis(since) {
		return false
	}
	if e.ring.old.Load() > 0 {
		return true
	}
	cur := epoch(now)
	last := min(cur, epoch(since))
	for at := cur - min(cur, ringOld-1); at <= last; at++ {
		if n, _ := e.ring.slot(at).waiting(); n > 0 {
			return true
		}
	}
	return false
}
