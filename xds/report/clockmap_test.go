package report

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestTheFastestMessageTellsTheClocksApart(t *testing.T) {
	var c ClockMap
	rng := rand.New(rand.NewPCG(1, 2))
	const apart = 3 * time.Hour
	for i := range 600 { // 60 s, ten a second, each 2 to 12 ms under way
		stamp := time.Duration(i) * 100 * time.Millisecond
		c.Observe(stamp+apart+2*time.Millisecond+time.Duration(rng.Int64N(int64(10*time.Millisecond))), stamp)
	}
	offset, jitter := c.At(apart + time.Minute)
	if offset < apart+2*time.Millisecond || offset > apart+3*time.Millisecond {
		t.Errorf("offset: got %v, want %v and at most 1 ms", offset, apart+2*time.Millisecond)
	}
	if jitter < 0 || jitter > 5*time.Millisecond {
		t.Errorf("jitter: got %v, want a few ms", jitter)
	}
}

func TestWhatIsAMinuteOldIsForgotten(t *testing.T) {
	var c ClockMap
	c.Observe(10*time.Second, 10*time.Second) // no difference
	for s := 11 * time.Second; s <= 69*time.Second; s += time.Second {
		c.Observe(s, s-5*time.Millisecond) // the route has become longer
	}
	if offset, _ := c.At(69 * time.Second); offset != 0 {
		t.Errorf("after 59 s: got %v, want 0", offset)
	}
	c.Observe(70*time.Second, 70*time.Second-5*time.Millisecond)
	if offset, jitter := c.At(70 * time.Second); offset != 5*time.Millisecond || jitter != 0 {
		t.Errorf("after 60 s: got %v, jitter %v; want 5ms, 0", offset, jitter)
	}
}

func TestOneSlowSecondIsNoJitter(t *testing.T) {
	var c ClockMap
	for s := range 60 {
		at := time.Duration(s) * time.Second
		late := time.Millisecond
		if s == 30 {
			late = 2 * time.Second
		}
		c.Observe(at+late, at)
	}
	if _, jitter := c.At(61 * time.Second); jitter != 0 {
		t.Errorf("jitter: got %v, want 0", jitter)
	}
}

func TestJitterIsHowMuchLaterMostMessagesAre(t *testing.T) {
	var c ClockMap
	for s := range 60 {
		at := time.Duration(s) * time.Second
		late := 30 * time.Millisecond
		if s%10 == 0 {
			late = time.Millisecond
		}
		c.Observe(at+late, at)
	}
	if _, jitter := c.At(59 * time.Second); jitter != 29*time.Millisecond {
		t.Errorf("jitter: got %v, want 29ms", jitter)
	}
}

func TestAClockThatJumpsIsFollowedAtOnce(t *testing.T) {
	for name, jump := range map[string]struct{ theirs, ours time.Duration }{
		"theirs ahead": {theirs: 3 * time.Hour}, "theirs back": {theirs: -3 * time.Hour},
		"ours ahead": {ours: 3 * time.Hour}, "ours back": {ours: -3 * time.Hour},
	} {
		var c ClockMap
		received, stamp := 10*time.Hour, 5*time.Hour
		for range 600 {
			received, stamp = received+100*time.Millisecond, stamp+100*time.Millisecond
			c.Observe(received, stamp)
		}
		received, stamp = received+jump.ours, stamp+jump.theirs
		for range 3 {
			received, stamp = received+100*time.Millisecond, stamp+100*time.Millisecond
			c.Observe(received, stamp)
			if offset, jitter := c.At(received); offset != received-stamp || jitter != 0 {
				t.Errorf("%s: got %v, jitter %v; want %v, 0", name, offset, jitter, received-stamp)
			}
		}
	}
}

// Whatever stamps come, an instant is never mapped to later than its message came.
func FuzzClockMap(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 255, 128, 0, 7, 9, 200, 100, 50})
	f.Add([]byte{0, 0, 0, 255, 255, 255, 1, 1, 1, 16, 32, 64})
	f.Fuzz(func(t *testing.T, moves []byte) {
		var c ClockMap
		received, stamp := time.Hour, time.Hour
		for i := 0; i+2 < len(moves); i += 3 {
			received += time.Duration(moves[i]) * 100 * time.Millisecond
			switch by := time.Duration(moves[i+1]); moves[i+2] % 8 {
			case 0:
				stamp += by * time.Hour
			case 1:
				stamp = max(0, stamp-by*time.Hour)
			case 2:
				received += by * time.Hour
			default:
				stamp += by * 100 * time.Millisecond
			}
			c.Observe(received, stamp)
			offset, jitter := c.At(received)
			if stamp+offset > received {
				t.Fatalf("a message of %v is mapped to %v", received, stamp+offset)
			}
			if jitter < 0 || received-(stamp+offset) > jumped {
				t.Fatalf("jitter %v, a message that has just come is mapped %v back", jitter, received-(stamp+offset))
			}
		}
	})
}

func TestAClockThatWasNeverHeard(t *testing.T) {
	var c ClockMap
	if offset, jitter := c.At(time.Hour); offset != 0 || jitter != 0 {
		t.Errorf("got %v, %v; want 0, 0", offset, jitter)
	}
}
