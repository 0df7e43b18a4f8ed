package world

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// story parses a scenario that is part of a test.
func story(t testing.TB, text string) Scenario {
	t.Helper()
	s, err := Parse("story", text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func play(t testing.TB, text string, seed uint64) map[string]float64 {
	t.Helper()
	return New(story(t, text), Overhear("overhear", Options{}), seed).Run().Figures()
}

func TestOneSeedIsOneStory(t *testing.T) {
	const text = "callers 5\nwarmup 20s\nlength 20s\nbase 1%\nunsafe 10%\nat 0s endpoint 3: crash\nat 5s endpoint 3: heal\nat 2s caller 1 -> all: errors 30%"
	var changes [2][]string
	var figures [2]map[string]float64
	for i := range figures {
		maker := Overhear("overhear", Options{OnChange: func(c merge.Change) {
			changes[i] = append(changes[i], c.At.String()+" "+c.Verdict.Key.Instance+" "+c.To.String()+" "+c.Refused)
		}})
		figures[i] = New(story(t, text), maker, 7).Run().Figures()
	}
	if diff := cmp.Diff(figures[0], figures[1]); diff != "" {
		t.Errorf("two runs of one seed differ (-first +second):\n%s", diff)
	}
	if diff := cmp.Diff(changes[0], changes[1]); diff != "" || len(changes[0]) == 0 {
		t.Errorf("verdicts of two runs of one seed differ, or there are none (-first +second):\n%s", diff)
	}
	if other := play(t, text, 8); maps.Equal(figures[0], other) {
		t.Error("another seed tells the same story")
	}
}

func TestACrashIsFoundAndCostsNobodyARequest(t *testing.T) {
	for _, text := range []string{"rate 5", "rate 50", "rate 50\ninbound yes", "rate 1\ncallers 4"} {
		f := play(t, text+"\nwarmup 30s\nlength 30s\nat 0s endpoint 3: crash", 1)
		if f["found"] != 1 || f["failed"] != 0 || f["false-fleet"] != 0 {
			t.Errorf("%q: found %v, %v failed requests, %v false verdicts; want found and nothing else\n%v", text, f["found"], f["failed"], f["false-fleet"], f)
		}
	}
}

func TestNobodyIsPunishedForWhatAllSuffer(t *testing.T) {
	for _, fault := range []string{"all: errors 30%", "all: errors 100%", "all: overload 50%", "all: pause 200ms every 5s"} {
		if f := play(t, "warmup 30s\nlength 20s\nat 0s "+fault, 1); f["false-fleet"] != 0 {
			t.Errorf("%s: %v verdicts of the fleet, want none", fault, f["false-fleet"])
		}
	}
}

func TestOneBrokenReporterConvincesNobody(t *testing.T) {
	f := play(t, "warmup 30s\nlength 60s\nat 0s caller 3 -> all: errors 100%", 1)
	if f["false-fleet"] != 0 || f["mutes"] == 0 {
		t.Errorf("%v false verdicts, %v mutes; want 0 and some", f["false-fleet"], f["mutes"])
	}
}

func TestWithoutFaultsNothingFailsAndNothingIsPinged(t *testing.T) {
	f := play(t, "base 0%\nwarmup 20s\nlength 60s", 1)
	if f["goodput"] != 1 || f["pings"] != 0 || f["false-outs"]+f["false-suspends"] != 0 || f["harm"] != 0 {
		t.Errorf("healthy mesh: %v", f)
	}
}

func TestAnEndpointThatNobodyUsesIsPingedAndFoundDead(t *testing.T) {
	f := play(t, "rate 0.001\nwarmup 60s\nlength 120s\nat 10s endpoint 3: crash", 1)
	if f["pings"] == 0 || f["found"] != 1 {
		t.Errorf("%v pings, found %v; want some and found", f["pings"], f["found"])
	}
}

func TestTheRestartOfAControlPlaneReadmitsNobody(t *testing.T) {
	f := play(t, "warmup 30s\nlength 30s\nat 0s endpoint 3: crash\nat 5s control: down\nat 12s control: up", 1)
	if f["found"] != 1 || f["flips"] != 0 || f["false-fleet"] != 0 {
		t.Errorf("found %v, %v flips, %v false verdicts; want found and nothing else", f["found"], f["flips"], f["false-fleet"])
	}
}

func TestTheSidecarBesideAnEndpointTellsOfItsApplication(t *testing.T) {
	var o *overhear
	maker := Overhear("overhear", Options{})
	build := maker.New
	maker.New = func(w *World) Product {
		o = build(w).(*overhear)
		return o
	}
	New(story(t, "inbound yes\ncallers 3\nwarmup 20s\nlength 3s\nat 0s endpoint 3: crash"), maker, 1).Run()
	if dead, well := o.hosts[3].seq, o.hosts[2].seq; dead < well+3 {
		t.Errorf("%d reports of a dead application, %d of one that is well; want some more", dead, well)
	}
	if c, _ := o.hosts[3].own.Weigh(new(o.hosts[3].schedule.Turn(o.w.now)), false); c.Refused < o.w.zero || c.N == 0 {
		t.Errorf("told of the dead application: %+v, want since when it refuses", c)
	}
}

func TestAnErrorInTheTrailersIsAFailure(t *testing.T) {
	for _, fault := range []string{"trailers 50%", "no-trailers 50%"} {
		f := play(t, "warmup 30s\nlength 20s\nbase 0%\nat 0s endpoint 3: "+fault, 1)
		if f["found"] != 1 || f["harm"] == 0 || f["failed"] == 0 {
			t.Errorf("%s: found %v, harm %v, %v failed requests; want all above 0", fault, f["found"], f["harm"], f["failed"])
		}
	}
	f := play(t, "warmup 30s\nlength 20s\nbase 0%\nat 0s endpoint 3: limit 50%", 1)
	if f["fleet-outs"] != 0 || f["goodput"] > 0.99 {
		t.Errorf("429 for half of the requests: %v verdicts, goodput %v; want none, and requests that did not succeed", f["fleet-outs"], f["goodput"])
	}
}

func TestClocksThatJumpChangeNothing(t *testing.T) {
	for _, jumps := range []string{"all: clock +1h", "all: clock -10s", "caller 0-4: clock -1h"} {
		f := play(t, "warmup 30s\nlength 20s\nat 0s "+jumps+"\nat 5s endpoint 3: crash", 1)
		if f["found"] != 1 || f["failed"] != 0 || f["false-fleet"] != 0 {
			t.Errorf("%s: found %v, %v failed requests, %v false verdicts; want found and nothing else", jumps, f["found"], f["failed"], f["false-fleet"])
		}
	}
}

func TestTheSecondPriorityServesWhenTheFirstIsGone(t *testing.T) {
	used := map[int]int{}
	maker := Maker{Name: "counter", New: func(w *World) Product { return counter{newOverhear(w, Options{}), used} }}
	w := New(story(t, "endpoints 4\nbackups 2\ncallers 3\nwarmup 10s\nlength 20s\nat 0s endpoint 0-1: crash"), maker, 1)
	w.Until(w.zero)
	if used[2]+used[3] != 0 {
		t.Errorf("backups got %d attempts while all was well", used[2]+used[3])
	}
	w.Until(w.zero + 5*time.Second)
	clear(used)
	w.Until(w.end)
	// The rules leave the last of a priority in, whatever it does.
	if used[2] == 0 || used[3] == 0 || used[0]+used[1] > used[2]+used[3] {
		t.Errorf("attempts once the first priority is gone: %v, want most of them at 2 and 3", used)
	}
	if f := w.Ledger.Figures(); f["unserved"] != 0 {
		t.Errorf("%v requests found no endpoint", f["unserved"])
	}
}

// counter counts where attempts go.
type counter struct {
	*overhear
	used map[int]int
}

func (c counter) Start(r *Request) { c.used[r.Endpoint]++; c.overhear.Start(r) }

// idler is a product that has no opinion: it picks in turn.
type idler struct{ w *World }

func (p *idler) Pick(*Request) int                { return p.w.Rand().IntN(p.w.Scenario.Endpoints) }
func (p *idler) Start(*Request)                   {}
func (p *idler) Headers(*Request)                 {}
func (p *idler) End(*Request, outlier.HTTPResult) {}
func (p *idler) Wake(uint32, uint32)              {}
func (p *idler) Changed()                         {}
func (p *idler) Control(bool)                     {}

func TestEveryAttemptEndsOnce(t *testing.T) {
	faults := []string{"crash", "hang", "blackhole", "listener", "errors 50%", "stall 50%", "cut 50%", "slow x1000", "pause 300ms every 1s", "reset", "capacity 5", "overload 50%", "heal", "replace"}
	rng := rand.New(rand.NewPCG(1, 1))
	for seed := range uint64(20) {
		var b strings.Builder
		b.WriteString("callers 3\nendpoints 4\nrate 20\nwarmup 1s\nlength 10s\ntimeout 2s\nunsafe 30%\n")
		if seed%3 == 0 {
			b.WriteString("patience 500ms\n")
		}
		for range 20 {
			b.WriteString("at " + time.Duration(rng.Int64N(int64(8*time.Second))).String() + " endpoint " + []string{"0", "1", "2", "3"}[rng.IntN(4)] + ": " + faults[rng.IntN(len(faults))] + "\n")
		}
		w := New(story(t, b.String()), Maker{Name: "idler", New: func(w *World) Product { return &idler{w} }}, seed)
		w.Until(w.end)
		w.arrival = forever // no new requests
		w.Until(w.end + time.Minute)
		for _, r := range w.requests {
			if r.live {
				t.Fatalf("seed %d: a request on endpoint %d never ended (%+v)\n%s", seed, r.Endpoint, r.how, b.String())
			}
		}
		for _, e := range w.Endpoints {
			if e.inflight != 0 {
				t.Fatalf("seed %d: endpoint %d has %d attempts in flight after all have ended\n%s", seed, e.Index, e.inflight, b.String())
			}
		}
	}
}

func TestEventsHappenInOrder(t *testing.T) {
	var q queue
	rng := rand.New(rand.NewPCG(1, 1))
	var want []time.Duration
	for range 1000 {
		at := time.Duration(rng.IntN(200))
		want = append(want, at)
		q.push(event{at: at})
	}
	slices.Sort(want)
	last := event{}
	for i := range want {
		e := q.pop()
		if e.at != want[i] {
			t.Fatalf("event %d is at %v, want %v", i, e.at, want[i])
		}
		if e.at == last.at && e.seq < last.seq {
			t.Fatalf("of two events at %v the later one came first", e.at)
		}
		last = e
	}
	if len(q.heap) != 0 {
		t.Errorf("%d events are left over", len(q.heap))
	}
}
