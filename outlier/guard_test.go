package outlier

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestInAGroupInTroubleOnlyWhatFailsNearlyEverythingMayLeave(t *testing.T) {
	troubled := Surroundings{W: 0.02, Worst: 0.1, Usual: 0.001, failed: 40}
	slow := Surroundings{Usual: 0.001, Slower: 20}
	lasting, ending, late := slow, slow, slow
	lasting.Lasts(Tally{100, 40}, Tally{300, 120})
	ending.Lasts(Tally{100, 5}, Tally{300, 120})
	late.Lasts(Tally{100, 40}, Tally{300, 45})
	for _, tt := range []struct {
		name string
		self Tally
		s    Surroundings
		pass bool
		says string
	}{
		{"a burst in an overload", Tally{41, 10}, troubled, false, "in trouble"},
		{"half of a long while, amid errors", Tally{400, 200}, troubled, false, "in trouble"},
		{"nearly everything, amid errors", Tally{20, 18}, troubled, true, "in trouble"},
		{"a burst while all queue", Tally{41, 10}, slow, false, "20.0 times as long"},
		{"everything while all queue", Tally{10, 10}, slow, true, "20.0 times as long"},
		{"while all queue, and alone with it for half a minute", Tally{41, 10}, lasting, true, ""},
		{"while all queue, of which it has recovered", Tally{41, 10}, ending, false, "20.0 times as long"},
		{"while all queue, for a few seconds", Tally{41, 10}, late, false, "20.0 times as long"},
		{"a burst, and the others are as always", Tally{41, 10}, Surroundings{Worst: 0.01, Usual: 0.001, failed: 5}, true, "others fail at 0.0 %"},
		{"two failures of the others are chance", Tally{41, 10}, Surroundings{Worst: 0.3, Usual: 0.001, failed: 2}, true, ""},
		{"a group that is used to it", Tally{41, 20}, Surroundings{W: 0.1, Worst: 0.1, Usual: 0.1, failed: 40}, true, ""},
		{"three times as slow is the least", Tally{41, 10}, Surroundings{Slower: 2.9}, true, ""},
	} {
		g := Guard(tt.self, tt.s, false)
		if g.Pass != tt.pass || !strings.Contains(g.String(), tt.says) {
			t.Errorf("%s: pass %v, %q; want %v and %q", tt.name, g.Pass, g.String(), tt.pass, tt.says)
		}
		if slowly := Guard(tt.self, tt.s, true); tt.s.Trouble() != "" && slowly.Pass != tt.pass {
			t.Errorf("%s: the slow test passes %v, want %v as well", tt.name, slowly.Pass, tt.pass)
		}
	}
}

func TestTheWorstOfSeveralWindowsCounts(t *testing.T) {
	rates := func(n, k int64) Ratios { return NewRatios([]Tally{{n, k}, {n, k}, {n, k}, {10, 10}}) }
	s := Surroundings{Usual: 0.001}
	self := Tally{10, 10}
	s.See(rates(10, 0), self, true)
	s.See(rates(100, 10), self, false)
	s.See(rates(300, 10), self, false)
	if s.W != 0 || s.Worst != 0.1 || s.failed != 30 {
		t.Errorf("got %+v, want W 0 of the first window and Worst 0.1 by 30 failures of the second", s)
	}
	if got := s.Trouble(); got != "errors" {
		t.Errorf("trouble %q, want errors", got)
	}
}

func TestWhatIsUsualIsTheLowestOfTwoMinutes(t *testing.T) {
	var u Usual
	if got := u.Rate(); got != FirstErrorRate {
		t.Errorf("before anything is known: %v, want %v", got, FirstErrorRate)
	}
	now := time.Hour
	for ; now < time.Hour+10*time.Minute; now += second {
		u.Note(0.001, now)
	}
	began := now
	for ; u.Rate() == 0.001; now += second {
		u.Note(0.1, now)
	}
	if took := now - began; took < 90*second || took > 121*second {
		t.Errorf("trouble became usual after %v, want 90 s to 2 min", took)
	}
	u.Note(0.002, now+second)
	if got := u.Rate(); got != 0.002 {
		t.Errorf("better times: %v, want 0.002 at once", got)
	}
	u.Note(0.3, now+time.Hour) // nothing was noted in between
	if got := u.Rate(); got != 0.3 {
		t.Errorf("after an hour: %v, want 0.3", got)
	}
}

// Where an endpoint serves less than half of what is asked of it, chance alone has some
// fail many more than the others do.
func TestACapacityCollapseEjectsFew(t *testing.T) {
	for _, tt := range []struct {
		capacity float64
		most     int // of 20
	}{{45, 0}, {35, 6}, {20, 12}} {
		capacity := tt.capacity
		ejected, runs := 0, 20
		for seed := range uint64(runs) {
			w := newWorld(t, 10, seed)
			w.load(500, 120*second)
			w.run(30 * second)
			for _, h := range w.hosts {
				h.capacity = capacity
			}
			w.run(60 * second)
			ejected += w.count(Ejected)
			if w.failed < 100 {
				t.Fatalf("capacity %v: %d requests failed: that is no overload", capacity, w.failed)
			}
			for _, h := range w.hosts {
				h.capacity = 0
			}
			w.hosts["e04"].errors = 0.9
			w.run(120 * second)
			w.want("e04", Ejected, 60*second)
		}
		if ejected > tt.most {
			t.Errorf("capacity %v: %d ejections in %d overloads of 30 s, want at most %d", capacity, ejected, runs, tt.most)
		}
	}
}

// While all are slow, chance has the weight of some fall for a moment, until their
// percentiles are known.
func TestASlowGroupKeepsItsBalance(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(t, 10, seed)
		w.load(500, 60*second)
		w.run(30 * second)
		for _, h := range w.hosts {
			h.latency *= 10
		}
		w.run(60 * second)
		for _, c := range w.changes {
			if c.Rule == RuleLatency && c.Explain.Weight < 0.3 {
				t.Errorf("seed %d at %v, %s: weight %.2f, want nobody's below 0.3 while all are slow", seed, c.At, c.ID, c.Explain.Weight)
			}
		}
	}
}

// Of a large group that is down everybody is a suspect at each Step: it must not cost
// the square of their number.
func BenchmarkStepOfAGroupThatIsDown(b *testing.B) {
	for _, n := range []int{250, 1000, 4000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			d := New(DefaultConfig(), rand.New(rand.NewPCG(1, 2)))
			members := make([]Member, 0, n)
			for i := range n {
				members = append(members, Member{ID: fmt.Sprintf("e%05d", i)})
			}
			d.SetMembers(members, 0)
			now := second
			all := func(class Class) {
				now += 25 * time.Millisecond
				for i, m := range d.members {
					a := m.ep.Start(now, true)
					m.ep.End(&a, Outcome{Class: class, Now: now, Conn: uint32(i) + uint32(millis(now))})
				}
			}
			for i := range 440 {
				class := OK
				if i >= 400 {
					class = Server
				}
				all(class)
				d.Step(now)
			}
			for b.Loop() {
				b.StopTimer()
				all(Server)
				b.StartTimer()
				d.Step(now)
			}
			if d.members[0].record.state != In {
				b.Fatal("somebody was ejected: the guard was not asked for long")
			}
		})
	}
}

// A group that fails together at 8 %, to which it is too used to be in trouble. In the
// short window of a burst one endpoint stands out, and the others are below 10 %. Were
// the guard asked from there on only, bursts would take endpoints out, ten times as many
// as now that it is asked where they fail at a fifth of its own rate. These are alarms of
// one sidecar alone, of 10 s at 50 attempts per second.
func TestTheGuardIsAskedInTimeInAGroupThatFailsALittle(t *testing.T) {
	const events, endpoints, attempts = 100, 10, 500
	odds, h := Odds{0.025, 0.2}.Steps(), 11*Nat
	rng := rand.New(rand.NewPCG(1, 2))
	out, outAtTenPercent := 0, 0
	for range events {
		var seen [endpoints]Tally
		var began [endpoints][endpoints]Tally // what all had counted when the excursion of one began
		var score [endpoints]int64
		var gone, goneAtTenPercent [endpoints]bool
		for range attempts {
			for i := range endpoints {
				if score[i] == 0 {
					began[i] = seen
				}
				seen[i].N++
				if rng.Float64() >= 0.08 {
					score[i] = max(0, score[i]+odds.OK)
					continue
				}
				seen[i].K++
				if score[i] = min(score[i]+odds.Fail, h); score[i] < h {
					continue
				}
				window := make([]Tally, endpoints)
				for j := range window {
					window[j] = Tally{N: seen[j].N - began[i][j].N, K: seen[j].K - began[i][j].K}
				}
				s := Surroundings{Usual: 0.08}
				s.See(NewRatios(window), window[i], true)
				g := Guard(window[i], s, false)
				gone[i] = gone[i] || g.Pass
				goneAtTenPercent[i] = goneAtTenPercent[i] || g.Pass || g.W < 0.1
			}
		}
		for i := range endpoints {
			if gone[i] {
				out++
			}
			if goneAtTenPercent[i] {
				outAtTenPercent++
			}
		}
	}
	t.Logf("%d ejections in %d events, %d if it were asked from 10 %% on", out, events, outAtTenPercent)
	if out > events/2 || outAtTenPercent < 10*out {
		t.Errorf("%d ejections in %d events, %d if asked from 10 %% on: want at most %d, and ten times as many", out, events, outAtTenPercent, events/2)
	}
}
