package outlier

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// script is what happens to the endpoints of a cluster, whatever anybody believes.
type script []scene

type scene struct {
	at   time.Duration
	id   string
	try  int
	ends bool
	out  Outcome
}

func newScript(seed uint64, length time.Duration) script {
	rng := rand.New(rand.NewPCG(seed, 11))
	var s script
	try := 0
	for i := range 10 {
		id := fmt.Sprintf("e%02d", i)
		for at := time.Duration(0); at < length; at += time.Duration(rng.ExpFloat64() * 200 * float64(time.Millisecond)) {
			latency := time.Duration((3 + 4*rng.Float64()) * float64(time.Millisecond))
			class := OK
			if rng.Float64() < 0.02 || i == 3 && at > 20*time.Second && rng.Float64() < 0.3 {
				class = Server
			}
			if i == 7 && at > 20*time.Second {
				latency *= 10
			}
			if i == 5 && at > 40*time.Second {
				latency, class = 5*time.Second, Timeout
			}
			s = append(s,
				scene{at: at, id: id, try: try},
				scene{at: at + latency, id: id, try: try, ends: true, out: Outcome{Class: class, Now: at + latency, Conn: uint32(1 + try%4)}})
			try++
		}
	}
	slices.SortStableFunc(s, func(a, b scene) int { return int(a.at - b.at) })
	return s
}

// play runs a detector over the script; it answers the first change of each endpoint by
// each rule that was not refused, and how often the detector stepped. Besides when it is
// due or was asked for, it steps as often as said; 0: not.
func (s script) play(every time.Duration) (first map[string]Change, steps int) {
	d := New(DefaultConfig(), rand.New(rand.NewPCG(1, 1)))
	var members []Member
	for i := range 10 {
		members = append(members, Member{ID: fmt.Sprintf("e%02d", i), Weight: 1})
	}
	d.SetMembers(members, 0)
	first = map[string]Change{}
	attempts := map[int]*Attempt{}
	next, last, also := time.Duration(0), time.Duration(-1), every
	step := func(now time.Duration) {
		r := d.Step(now)
		steps++
		next, last = r.Next, now
		for _, c := range r.Changes {
			key := c.ID + " " + c.Rule.String()
			if _, known := first[key]; !known && c.Refused == "" {
				first[key] = c
			}
		}
	}
	for _, x := range s {
		for next <= x.at || every > 0 && also <= x.at {
			now := next
			if every > 0 && also < next {
				now = also
			}
			if every > 0 && also <= now {
				also += every
			}
			step(now)
		}
		ep := d.Endpoint(x.id)
		if !x.ends {
			a := ep.Start(x.at, true)
			attempts[x.try] = &a
			continue
		}
		a := attempts[x.try]
		delete(attempts, x.try)
		if x.out.Class == OK {
			ep.Headers(a, x.at)
		}
		if ep.End(a, x.out) {
			next = min(next, max(x.at, last+leastStep))
		}
	}
	return first, steps
}

// What is promised in Result.Next is enough: more Steps find out the same things, and no
// sooner than the quarter of a second that a Step at rest is long.
func TestSteppingMoreOftenThanPromisedFindsNothingElse(t *testing.T) {
	const rest = 250 * time.Millisecond
	found := map[string]int{}
	for seed := range uint64(8) {
		s := newScript(seed, time.Minute)
		calm, few := s.play(0)
		busy, many := s.play(20 * time.Millisecond)
		if few > many/3 {
			t.Errorf("seed %d: %d Steps, against %d each 20 ms", seed, few, many)
		}
		for key, c := range calm {
			if _, same := busy[key]; !same {
				t.Errorf("seed %d: %s at %v, and not at all when stepping more often", seed, key, c.At)
			}
		}
		for key, c := range busy {
			found[key]++
			got, same := calm[key]
			if late := got.At - c.At; !same || max(late, -late) > rest {
				t.Errorf("seed %d: %s %v at %v, want it at %v, give or take %v", seed, key, same, got.At, c.At, rest)
			}
		}
	}
	for _, key := range []string{"e03 fast", "e05 stalled", "e07 latency"} {
		if found[key] < 6 {
			t.Errorf("%s was found in %d of 8 runs: nothing was compared", key, found[key])
		}
	}
}
