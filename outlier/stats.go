package outlier

import (
	"math"
	"slices"
	"time"
)

// Nat is one nat in the unit of every score of this package and of merge.
//
// Scores are log likelihood ratios kept as integer milli-nats, rounded to
// nearest. Integers make a score independent of the order in which failures
// and successes are added, so that counters that arrive permuted or doubled
// lead to the same decision, and let the hot path add with one instruction.
const Nat int64 = 1000

// Clamp limits x to [a, b]; when a > b, b wins.
func Clamp(x, a, b float64) float64 { return min(max(x, a), b) }

// Odds are the two hypotheses of a sequential test: an attempt fails with
// probability P0 if the endpoint is as good as its group, P1 if it is bad.
type Odds struct{ P0, P1 float64 }

// Steps turns the odds into what one failure and one success are worth.
func (o Odds) Steps() Steps {
	return Steps{
		Fail: milli(math.Log(o.P1 / o.P0)),
		OK:   milli(math.Log((1 - o.P1) / (1 - o.P0))),
	}
}

// Steps are the log likelihood ratios of one failed (Fail > 0) and one good
// (OK < 0) attempt, in milli-nats.
type Steps struct{ Fail, OK int64 }

// LLR is the log likelihood ratio of k failures in n attempts, in milli-nats.
func (s Steps) LLR(n, k int64) int64 { return k*s.Fail + (n-k)*s.OK }

// Cusum adds k failures of n attempts to a score that never falls below 0:
// Page's test (Page 1954). As a batch it charges the failures last, the
// order that gives the highest score: a failure is never hidden by successes
// of the same batch that may have come before it.
func (s Steps) Cusum(score, n, k int64) int64 {
	return max(0, score+(n-k)*s.OK) + k*s.Fail
}

// Bounds limit the odds of the fast test.
type Bounds struct{ P0Min, P0Max, P1Min float64 }

// Baseline is what a group of endpoints looks like when all is well.
type Baseline struct {
	// Pg is the error rate of the group's better 70 %: see [TrimmedMean].
	Pg float64
	// W is the median error rate of the other endpoints in the same window:
	// see [Ratios.Without].
	W float64
	// Endpoints is the size of the group.
	Endpoints int
	// Attempts is how many attempts Pg rests on.
	Attempts int64
}

const (
	groupSuffers = 0.1 // of W, from which p0 follows it
	// Below youngAttempts Pg is not yet an estimate, and youngP0 takes its place. It is
	// that high because an error rate of 3 % is nothing unusual: with half of it, one
	// pair of observer and endpoint in a thousand was ejected in its first 20 s.
	youngAttempts = 600
	youngP0       = 0.04
	smallGroup    = 5 // below, nothing averages over the endpoints
	smallP0       = 0.02
	p1Max         = 0.95
)

// FastOdds are the hypotheses of the fast test. P0 stands at twice the
// group's own error rate, so that an endpoint a little worse than its
// neighbours is not a suspect; it rises with W, so that nobody is singled out
// while all suffer. P1 follows at a distance that keeps a success worth
// something.
func FastOdds(b Baseline, lim Bounds) Odds {
	x := 2*b.Pg + 0.005
	if b.Attempts < youngAttempts {
		x = youngP0
	}
	if b.W > groupSuffers {
		x = max(x, 1.3*b.W)
	}
	floor := lim.P0Min
	if b.Endpoints < smallGroup {
		floor = max(floor, smallP0)
	}
	p0 := Clamp(x, floor, lim.P0Max)
	return Odds{P0: p0, P1: Clamp(min(4*p0, p0+0.3), max(lim.P1Min, p0+0.01), p1Max)}
}

// SlowOdds are the hypotheses of the slow test, for errors that are too rare
// for the fast one: they need many observers, so only merge runs it.
func SlowOdds(pg float64) Odds {
	p0 := Clamp(1.3*pg+0.002, 0.005, 0.5)
	return Odds{P0: p0, P1: Clamp(3*p0, 0.05, p1Max)}
}

// Threshold is the score at which a test alarms, in milli-nats: the busier
// an endpoint, the more often chance gets a try, so the threshold grows with
// the logarithm of its rate and the mean time between false alarms stays
// near interval (Wald 1945; the 7 and the 3 are fitted to the exact Markov
// chain of this test). rate is attempts per second; floor and ceil are nats:
// 10 and 18 for one observer (h1), 12 and 20 for the fleet (h3).
func Threshold(rate float64, interval time.Duration, floor, ceil float64) int64 {
	if rate <= 0 {
		return milli(floor)
	}
	return milli(Clamp(math.Log(rate*interval.Seconds()/7)-3, floor, ceil))
}

// Tally is k failures in n attempts within some window.
type Tally struct{ N, K int64 }

// Rate is the share of failures, 0 without attempts.
func (t Tally) Rate() float64 {
	if t.N <= 0 {
		return 0
	}
	return float64(t.K) / float64(t.N)
}

// tallyMin is how many attempts a neighbour needs before its error rate says
// something about the group.
const tallyMin = 3

// Ratios are the error rates of a group in one window, kept in order so that
// leaving one endpoint out costs no second sort.
type Ratios struct {
	sorted []float64
	failed int64 // of all
}

// fewRatios are sorted by insertion: every window of every Step wants its own.
const fewRatios = 24

// NewRatios collects the error rates of all endpoints with at least 3
// attempts in the window.
func NewRatios(group []Tally) Ratios {
	r := Ratios{sorted: make([]float64, 0, len(group))}
	for _, t := range group {
		r.failed += t.K
		if t.N >= tallyMin {
			r.sorted = append(r.sorted, t.Rate())
		}
	}
	if len(r.sorted) > fewRatios {
		slices.Sort(r.sorted)
		return r
	}
	for i, x := range r.sorted {
		for ; i > 0 && r.sorted[i-1] > x; i-- {
			r.sorted[i] = r.sorted[i-1]
		}
		r.sorted[i] = x
	}
	return r
}

// Without is the median of the error rates with that of one member of the
// group left out; 0 if nobody else had enough attempts.
func (r Ratios) Without(self Tally) float64 {
	n, at := len(r.sorted), len(r.sorted)
	if self.N >= tallyMin {
		if i, found := slices.BinarySearch(r.sorted, self.Rate()); found {
			n, at = n-1, i
		}
	}
	if n == 0 {
		return 0
	}
	get := func(i int) float64 {
		if i >= at {
			i++
		}
		return r.sorted[i]
	}
	return (get((n-1)/2) + get(n/2)) / 2
}

// TrimmedMean is p_g: the mean of the lowest 70 % (rounded down, at least
// one) of the endpoints' error rates. The sick must not raise the bar for
// themselves. It sorts rates in place and answers false if there are none.
func TrimmedMean(rates []float64) (float64, bool) {
	if len(rates) == 0 {
		return 0, false
	}
	slices.Sort(rates)
	m := max(1, len(rates)*7/10)
	sum := 0.0
	for _, r := range rates[:m] {
		sum += r
	}
	return sum / float64(m), true
}

// FirstErrorRate is what an endpoint's error rate is taken to be before it
// had any attempt.
const FirstErrorRate = 0.01

// ErrorRateStep is how far an endpoint's error rate moves towards what dn
// attempts in dt showed: it forgets over 100 attempts or 30 s, whichever is
// longer.
func ErrorRateStep(dn int64, dt time.Duration) float64 {
	return min(-math.Expm1(-float64(dn)/100), -math.Expm1(-dt.Seconds()/30))
}

// Probation is a sequential probability ratio test (Wald 1945) between
// "still bad" and "as good as its group". It begins at [ProbationStart];
// add [Steps.LLR] of the attempts made on probation: at or below 0 the
// endpoint has shown itself well, at or above [ProbationOut] it goes out
// again. About 22 clean successes, or 2 early failures, decide.
const (
	ProbationStart int64 = 4600
	ProbationOut   int64 = 8000
)

// TrialOdds are the hypotheses of a probation after an ejection by a statistical
// test. A trial has to tell the fault that ejected: the fast odds look for errors of
// 20 % and more and let 5 % pass. So P1 is the rate at which the endpoint failed
// when it went, if that is less, but not less than what the slow test looks for.
// Where the fast test's P0 leaves too little room below, the slow one's takes its
// place. The smaller the fault, the longer its trial: 22 clean successes at 20 %,
// about 110 at 5 %.
func TrialOdds(fast Odds, pg, fault float64) Odds {
	slow := SlowOdds(pg)
	p1 := max(fault, slow.P1)
	switch {
	case p1 >= fast.P1:
		return fast
	case p1 >= 3*fast.P0:
		return Odds{P0: fast.P0, P1: p1}
	default:
		return Odds{P0: min(fast.P0, slow.P0), P1: p1}
	}
}

// The belief that an idle endpoint is down, in milli-nats, as in Trinocular
// (Quan, Heidemann, Pradkin 2013): each missed ping adds BeliefStep, each
// answered one subtracts it. Three net misses from rest make it down.
const (
	BeliefRest int64 = -4600
	BeliefStep int64 = 4600
	BeliefMax  int64 = 9200
	BeliefDown int64 = 9000
)

// Belief moves a belief by one ping.
func Belief(b int64, answered bool) int64 {
	if answered {
		return max(BeliefRest, b-BeliefStep)
	}
	return min(BeliefMax, b+BeliefStep)
}

// milli rounds nats to milli-nats, halves away from zero.
func milli(nats float64) int64 { return int64(math.Round(nats * float64(Nat))) }
