package cadence_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/report/cadence"
)

const ms = time.Millisecond

var key = merge.Key{Service: "api", Instance: "api-0"}

// stream is one endpoint, reported as a shell would do it. Its clock begins at a
// minute, after a summary.
type stream struct {
	schedule cadence.Schedule
	topic    cadence.Topic
	told     cadence.Told
	evidence outlier.Evidence
	watched  time.Duration
	now      time.Duration
	sent     []time.Duration // since start
	start    time.Duration
}

func begin() *stream {
	s := &stream{schedule: cadence.NewSchedule(cadence.DefaultConfig()), now: time.Minute}
	s.evidence.LastHard = outlier.Never
	s.schedule.Begin("sidecar-1", s.now)
	s.schedule.Wake(s.now)
	s.run(15 * time.Second)
	// A moment after a summary nothing else disturbs for nearly ten seconds.
	s.sent, s.start = nil, s.schedule.Next()
	s.run(s.start - s.now)
	s.sent = nil
	s.run(100 * ms)
	s.start = s.now
	return s
}

// run lets time pass.
func (s *stream) run(d time.Duration) {
	end := s.now + d
	for s.schedule.Next() <= end {
		s.now = max(s.now, s.schedule.Next())
		if !s.schedule.Due(s.now) {
			continue
		}
		turn := s.schedule.Turn(s.now)
		watched := turn.Watched(s.watched)
		if due, _ := turn.Due(&s.topic, watched); due {
			c := cadence.Cell(key, &s.evidence)
			news := s.told.Weigh(&turn, &s.topic, &s.evidence, &c, watched)
			turn.Asked(&s.topic)
			if news && turn.Tell {
				s.told.Sent(c, s.now)
				s.sent = append(s.sent, (s.now - s.start).Round(ms))
			}
		}
		s.schedule.End(&turn)
	}
	s.now = end
}

// hard is a hard failure now; soft one that only counts.
func (s *stream) hard() {
	s.evidence.Counts.N++
	s.evidence.Counts.Conn++
	s.evidence.LastHard = s.now
	s.schedule.Hear(&s.topic, outlier.UrgencyHard, s.now)
}

func (s *stream) soft(u outlier.Urgency) {
	s.evidence.Counts.N++
	s.evidence.Counts.Server++
	s.evidence.Excursion = true
	s.schedule.Hear(&s.topic, u, s.now)
}

func (s *stream) want(t *testing.T, what string, want ...time.Duration) {
	t.Helper()
	for i := range want {
		want[i] *= ms
	}
	if diff := cmp.Diff(want, s.sent); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestHardNewsGoAtOnceThenLessAndLessOften(t *testing.T) {
	s := begin()
	for range 160 { // a failure each 10 ms
		s.hard()
		s.run(10 * ms)
	}
	s.want(t, "hard failures for 1.6 s: each 50 ms for half a second, then each 250 ms",
		0, 50, 100, 150, 200, 250, 300, 350, 400, 450, 700, 950, 1200, 1450)
}

func TestHardNewsDoNotWaitForSoftOnes(t *testing.T) {
	s := begin()
	s.soft(outlier.UrgencySoft)
	s.run(20 * ms)
	s.hard()
	s.run(20 * ms)
	s.hard()
	s.run(100 * ms)
	s.want(t, "a soft failure, a hard one 20 ms later, and another", 0, 20, 70)
}

func TestOneHardFailureIsToldOnce(t *testing.T) {
	s := begin()
	s.hard()
	s.run(5 * time.Second)
	s.want(t, "one failure", 0)
}

func TestSoftNewsHaveABudgetOfWhichHalfIsForWhatFailsAgain(t *testing.T) {
	s := begin()
	s.soft(outlier.UrgencySoft)
	s.run(20 * ms)
	s.soft(outlier.UrgencyRising)
	s.run(20 * ms)
	s.soft(outlier.UrgencyRising)
	s.run(500 * ms)
	s.want(t, "the first of three in 40 ms is told at once, the others together", 0, 50)

	s = begin()
	told := func(u outlier.Urgency) int {
		before := len(s.sent)
		for range 6 {
			s.told = cadence.Told{} // each is another endpoint's
			s.soft(u)
			s.run(60 * ms)
		}
		return len(s.sent) - before
	}
	if got := told(outlier.UrgencySoft); got != 2 {
		t.Errorf("first failures told within 360 ms: %d, want 2, half of the bucket", got)
	}
	if got := told(outlier.UrgencyRising); got != 2 {
		t.Errorf("then second failures told within 360 ms: %d, want 2, the other half", got)
	}
}

func TestAnExcursionIsToldEachSecondWhileThereIsNews(t *testing.T) {
	s := begin()
	s.soft(outlier.UrgencySoft)
	for range 35 {
		s.run(100 * ms)
		s.evidence.Counts.N++ // successes: no urgency
	}
	s.want(t, "an excursion of 3.5 s", 0, 1000, 2000, 3000)
}

func TestEachFailureOfAWatchedEndpointIsToldAtOnceAndItsSuccessesEachSecond(t *testing.T) {
	s := begin()
	s.watched = s.now + 2*time.Second
	s.schedule.Watch(s.watched)
	for i := range 300 {
		s.evidence.Counts.N++
		if i >= 50 && i < 65 && i%2 == 0 { // more than there are tokens
			s.soft(outlier.UrgencyRising)
			s.evidence.Excursion = false
		}
		s.run(10 * ms)
	}
	s.want(t, "watched for 2 s, with failures from 500 to 640 ms", 0, 500, 550, 600, 650, 1650)
}

func TestWhatIsCalmWaitsForTheSummary(t *testing.T) {
	s := begin()
	s.evidence.Counts.N++
	s.run(25 * time.Second)
	s.want(t, "one success", 9900)
	first, second := cadence.NewSchedule(cadence.DefaultConfig()), cadence.NewSchedule(cadence.DefaultConfig())
	for s, who := range map[*cadence.Schedule]string{&first: "sidecar-1", &second: "sidecar-2"} {
		s.Begin(who, 0)
		turn := s.Turn(0)
		if !turn.Summary || !turn.Tell {
			t.Error("a new stream does not begin with everything")
		}
		s.End(&turn)
	}
	if first.Next() == second.Next() {
		t.Error("two sidecars that began together send their summaries together")
	}
}

func TestATrialCountsWhatIsBegunUnderItsShares(t *testing.T) {
	counts := outlier.Counts{N: 100, Server: 50}
	read := func() outlier.Counts { return counts }
	order := func(epoch uint64, weight float64, trickle time.Duration) merge.Share {
		return merge.Share{Key: key, Epoch: epoch, Weight: weight, Trickle: trickle, For: 5 * time.Second}
	}
	if trial := cadence.Lend(nil, order(7, 0, time.Second), 0, read); trial != nil {
		t.Error("the trickle of a suspension was taken for a trial")
	}
	if got := cadence.Weight(order(7, 0, 4*time.Second)); got != 0.25 {
		t.Errorf("one attempt each 4 s: weight %v, want 0.25/s", got)
	}
	stands := func(epoch uint64, inflight int) cadence.Standing {
		return cadence.Standing{Epoch: epoch, Counts: counts, Inflight: inflight}
	}
	trial := cadence.Lend(nil, order(7, 0.1, 0), 0, read)
	s := cadence.NewSchedule(cadence.DefaultConfig())
	turn := s.Turn(500 * time.Millisecond)
	counts.N++
	if since, _, _ := trial.Count(&turn, stands(6, 0)); since != (outlier.Counts{}) {
		t.Errorf("before its verdict was held: %+v, want nothing", since)
	}
	counts.N += 2
	turn = s.Turn(time.Second)
	if since, news, over := trial.Count(&turn, stands(7, 0)); since != (outlier.Counts{N: 2}) || !news || over {
		t.Errorf("after two successes: %+v, news %v, over %v", since, news, over)
	}
	if _, news, _ := trial.Count(&turn, stands(7, 0)); news {
		t.Error("the same was news twice")
	}
	counts.N--
	if since, news, _ := trial.Count(&turn, stands(7, 0)); since.N != 2 || news {
		t.Errorf("while an attempt of before ends: %+v, news %v", since, news)
	}
	counts.N++
	if renewed := cadence.Lend(trial, order(7, 0.1, 0), 3*time.Second, read); renewed != trial {
		t.Error("a renewal began anew")
	}
	counts.N++
	turn = s.Turn(9 * time.Second)
	if since, news, over := trial.Count(&turn, stands(7, 1)); since.N != 3 || !news || over {
		t.Errorf("it has lapsed, and an attempt is outstanding: %+v, news %v, over %v", since, news, over)
	}
	counts.N, counts.Server = counts.N+1, counts.Server+1
	turn = s.Turn(10 * time.Second)
	if since, news, _ := trial.Count(&turn, stands(7, 0)); since.N != 4 || since.Server != 1 || !news {
		t.Errorf("that has failed: %+v, news %v", since, news)
	}
	counts.N++
	turn = s.Turn(11 * time.Second)
	if since, news, _ := trial.Count(&turn, stands(7, 0)); since.N != 4 || news {
		t.Errorf("without a share, and with nothing outstanding: %+v, news %v", since, news)
	}
	if again := cadence.Lend(trial, order(7, 0.1, 0), 12*time.Second, read); again != trial {
		t.Error("a later share of the same probation began anew")
	}
	counts.N++
	turn = s.Turn(13 * time.Second)
	if since, news, _ := trial.Count(&turn, stands(7, 0)); since.N != 5 || !news {
		t.Errorf("by a later share: %+v, news %v, want one more", since, news)
	}
	trial.Retell()
	if since, news, _ := trial.Count(&turn, stands(7, 0)); since.N != 5 || !news {
		t.Errorf("on another stream: %+v, news %v, want all again", since, news)
	}
	counts.N, counts.Timeout = counts.N+1, counts.Timeout-1
	if since, news, _ := trial.Count(&turn, stands(7, 0)); since.N != 5 || since.Timeout != 0 || news {
		t.Errorf("while a time-out of before ends: %+v, news %v", since, news)
	}
	counts.N, counts.Timeout = counts.N-1, counts.Timeout+1
	if next := cadence.Lend(trial, order(8, 0.1, 0), 13*time.Second, read); next == trial || next.Epoch != 8 {
		t.Error("a trial of a later epoch did not begin anew")
	}
	counts.N++
	if _, news, over := trial.Count(&turn, stands(8, 1)); news || !over {
		t.Errorf("once another verdict is held: news %v, over %v", news, over)
	}
	lapsed := cadence.Lend(nil, order(8, 0.1, 0), 0, read)
	lapsed.Count(&turn, stands(8, 0))
	if _, _, over := lapsed.Count(&turn, stands(8, 0)); over {
		t.Error("a trial whose share has lapsed was over, while its probation lasts")
	}
	if _, _, over := lapsed.Count(&turn, stands(0, 0)); !over {
		t.Error("a trial whose share has lapsed was not over when the endpoint was in")
	}
}

// Everybody waits for the answer that ends a suspension.
func TestAnAnswerThatEndsASuspensionIsToldAtOnce(t *testing.T) {
	s := begin()
	s.evidence.Counts.N++
	s.evidence.LastOK, s.evidence.Relief = s.now, true
	s.schedule.Hear(&s.topic, outlier.UrgencyHard, s.now)
	s.run(5 * time.Second)
	s.want(t, "one answer", 0)
}

// A connection that is reset ends no process; one that is refused had none to take it.
func TestAnApplicationIsStartedAgainWhenItAnswersAfterARefusal(t *testing.T) {
	for _, c := range []struct {
		level   outlier.Level
		opened  []uint32 // connections by the refusal, and by the answer after it; nil: unknown
		restart bool
	}{
		{outlier.LevelConnect, nil, true}, {outlier.LevelConnect, []uint32{3, 4}, true}, {outlier.LevelApp, nil, false},
		// Its listener is gone: an old connection answers.
		{outlier.LevelConnect, []uint32{3, 3}, false},
	} {
		detector := outlier.New(outlier.DefaultConfig(), rand.New(rand.NewPCG(0, 0)))
		detector.SetMembers([]outlier.Member{{ID: "own"}}, 0)
		stats := detector.Endpoint("own")
		var opened func() uint32
		n := uint32(0)
		if c.opened != nil {
			opened, n = func() uint32 { return n }, c.opened[0]
		}
		own := cadence.NewOwn(key, stats, opened)
		now := time.Minute
		end := func(class outlier.Class) {
			now += time.Second
			a := stats.Start(now, true)
			stats.End(&a, outlier.Outcome{Class: class, Level: c.level, Now: now})
			own.Look(now)
		}
		started := func() time.Duration {
			s := cadence.NewSchedule(cadence.DefaultConfig())
			turn := s.Turn(now)
			cell, _ := own.Weigh(&turn, false)
			return cell.Started
		}
		end(outlier.OK)
		first := started()
		if first <= 0 || first >= time.Second {
			t.Errorf("it began at %v, want with its sidecar", first)
		}
		end(outlier.Conn)
		if c.opened != nil {
			n = c.opened[1]
		}
		end(outlier.OK)
		want := first
		if c.restart {
			want = now
		}
		end(outlier.OK)
		if got := started(); got != want {
			t.Errorf("failed at level %s, connections %v: started at %v, want %v", c.level, c.opened, got, want)
		}
	}
}
