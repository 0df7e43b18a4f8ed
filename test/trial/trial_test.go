package trial

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhatIsWaitedForIsTriedUntilItWorksOrHalfAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries, began := 0, time.Now()
		if err := Wait(t.Context(), "a third try", func() error {
			if tries++; tries < 3 {
				return errors.New("not yet")
			}
			return nil
		}); err != nil || tries != 3 {
			t.Errorf("%d tries: %v, want three", tries, err)
		}
		err := Wait(t.Context(), "never", func() error { return errors.New("not yet") })
		if err == nil || !strings.Contains(err.Error(), "never: not within 30 s: not yet") || time.Since(began) < 30*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}
