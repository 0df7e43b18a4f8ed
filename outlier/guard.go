package outlier

import (
	"fmt"
	"time"
)

// Surroundings are how the group of a suspect does, for [Guard].
type Surroundings struct {
	// W is the median error rate of the others in the suspect's own window: see
	// [Ratios.Without].
	W float64
	// Worst is the largest such median of that window and of the longer ones that
	// were seen.
	Worst float64
	// Usual is the error rate that the group is used to: see [Usual].
	Usual float64
	// Slower is how many times as long as usual the group takes to answer; 0 if
	// unknown.
	Slower float64

	failed int64 // of the others, where Worst was seen
	// What the suspect counted in the last ten seconds, and in the twenty before.
	newest, older Tally
}

// See takes in one window: the first is the suspect's own. self is the suspect's
// tally there, zero if the window was collected without it.
func (s *Surroundings) See(r Ratios, self Tally, own bool) {
	w := r.Without(self)
	if own {
		s.W = w
	}
	if failed := r.failed - self.K; w > s.Worst || failed > s.failed && w == s.Worst {
		s.Worst, s.failed = w, failed
	}
}

// Lasts takes in what the suspect counted in the last ten and in the last thirty seconds.
func (s *Surroundings) Lasts(ten, thirty Tally) {
	s.newest, s.older = ten, Tally{N: max(0, thirty.N-ten.N), K: max(0, thirty.K-ten.K)}
}

// alone says whether the suspect has failed much for half a minute, and does so still,
// in which the others have not.
func (s *Surroundings) alone() bool {
	steps := beyond(s.Worst, 0.1, 0.5).Steps()
	return steps.LLR(s.newest.N, s.newest.K) >= guardNats && steps.LLR(s.older.N, s.older.K) >= guardNats
}

// beyond are the odds of one that is worse than the others, who fail at a rate of w,
// against one that is like them; p0 and p1 are the least rates of both.
func beyond(w, p0, p1 float64) Odds {
	return Odds{max(p0, 1.3*w), min(0.95, max(p1, 2.5*w))}
}

const (
	// A group is in trouble when its median error rate is troubleTimes what it is
	// used to and troubleMore on top, by more failures than chance brings.
	troubleTimes  = 3
	troubleMore   = 0.02
	troubleFailed = 3
	// SlowerMuch is how many times as long as usual a group that has more to do than
	// it can takes to answer, at least.
	SlowerMuch = 3
)

// Trouble says what is wrong with the group as a whole: "errors", "slow" or "". That all
// are slow explains failures that come and go. It does not explain those of one endpoint
// for half a minute in which nobody else fails.
func (s *Surroundings) Trouble() string {
	switch {
	case s.failed >= troubleFailed && s.Worst >= troubleTimes*s.Usual+troubleMore:
		return "errors"
	case s.Slower >= SlowerMuch && !s.alone():
		return "slow"
	}
	return ""
}

// GuardResult says what the group guard saw.
type GuardResult struct {
	// Asked is false when the neighbours were quiet enough not to ask.
	Asked bool `json:"asked"`
	// Pass is whether the endpoint may be singled out.
	Pass bool `json:"pass"`
	// W and Rate are the error rates of the neighbours and of the endpoint.
	W    float64 `json:"w"`
	Rate float64 `json:"rate"`
	// Trouble is what is wrong with the whole group: errors (W is far above Usual), or
	// slow (it takes Slower times as long as usual to answer); empty: nothing.
	Trouble string  `json:"trouble,omitempty"`
	Usual   float64 `json:"usual,omitempty"`
	Slower  float64 `json:"slower,omitempty"`
	// P0, P1, LLR (milli-nats) are the guard's own test; LLR must reach 6 nats.
	P0  float64 `json:"p0,omitempty"`
	P1  float64 `json:"p1,omitempty"`
	LLR int64   `json:"llr,omitempty"`
}

// String says it in words.
func (g GuardResult) String() string {
	s := fmt.Sprintf("the others fail at %.1f %%, this one at %.1f %%", 100*g.W, 100*g.Rate)
	switch g.Trouble {
	case "errors":
		s += fmt.Sprintf("; usual are %.1f %%: the group is in trouble, and only what fails nearly everything may leave", 100*g.Usual)
	case "slow":
		s += fmt.Sprintf("; the group takes %.1f times as long as usual to answer: it has too much to do, and only what fails nearly everything may leave", g.Slower)
	}
	if g.Asked {
		s += fmt.Sprintf("; against p0 %.2f, p1 %.2f the score is %.1f, %.0f is wanted", g.P0, g.P1, float64(g.LLR)/float64(Nat), float64(guardNats)/float64(Nat))
	}
	return s
}

// guardNats is the evidence the guard wants, in milli-nats.
const guardNats = 6 * Nat

// Guard asks whether an endpoint is bad beyond what its whole group suffers.
// self is its tally in the window of its excursion. A fault of the group, a network
// or a shared dependency, raises all scores; ejecting then only moves load onto the
// next victim. slow is the slow test, whose small effects always look like the
// group's, so that only a group in plain trouble (w >= 10 %) is asked about.
//
// A group that fails or dawdles far beyond its habit is short of capacity, as far as
// anybody here can tell. Failures of an overloaded group come in bursts, now on this
// endpoint, now on that, so that in each short window somebody stands out. And what
// such an endpoint still answers is worth having: nobody else has room for it. There
// only an endpoint that fails most of what it gets is better left alone.
func Guard(self Tally, s Surroundings, slow bool) GuardResult {
	g := GuardResult{W: s.W, Rate: self.Rate(), Trouble: s.Trouble(), Pass: true}
	w, p0, p1 := s.W, 0.01, 0.5
	switch {
	case g.Trouble != "":
		g.Usual, g.Slower = s.Usual, s.Slower
		w, p0, p1 = s.Worst, 0.35, 0.75
		g.W = w
	case w < 0.1 && (slow || w == 0 || w < g.Rate/5):
		return g
	}
	g.Asked = true
	odds := beyond(w, p0, p1)
	g.P0 = odds.P0
	if g.P0 > 0.8 {
		g.Pass = false
		return g
	}
	g.P1 = odds.P1
	g.LLR = odds.Steps().LLR(self.N, self.K)
	g.Pass = g.LLR >= guardNats
	return g
}

// Windows are how far a guard looks back besides the suspect's own window, which is
// short where its failures come in a burst.
var Windows = [...]time.Duration{10 * time.Second, 30 * time.Second}

// Usual is what error rate a group is used to: the lowest p_g of the last two
// minutes. p_g itself gets used to trouble within half a minute.
type Usual struct {
	low  [4]float64
	slot int64
	used bool
}

const usualSlot = 30 * time.Second

// Note takes in p_g as it is now.
func (u *Usual) Note(pg float64, now time.Duration) {
	slot := int64(now / usualSlot)
	if !u.used {
		u.used, u.slot = true, slot
		for i := range u.low {
			u.low[i] = pg
		}
	}
	for ; u.slot < slot; u.slot++ {
		u.low[(u.slot+1)%int64(len(u.low))] = pg
	}
	at := &u.low[slot%int64(len(u.low))]
	*at = min(*at, pg)
}

// Rate is that error rate.
func (u *Usual) Rate() float64 {
	if !u.used {
		return FirstErrorRate
	}
	return min(u.low[0], u.low[1], u.low[2], u.low[3])
}
