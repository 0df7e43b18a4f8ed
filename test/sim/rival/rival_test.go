package rival

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/test/sim/world"
)

var (
	good    = outcome{}
	bad     = outcome{failed: true}
	refused = outcome{failed: true, connect: true, refused: true}
)

// bench is one caller of a model in a world without users.
type bench struct {
	t *testing.T
	w *world.World
	c *caller
}

func set(t *testing.T, maker world.Maker, endpoints int) *bench {
	t.Helper()
	s := world.Default()
	s.Callers, s.Endpoints, s.Rate, s.Length = 1, endpoints, 1e-9, time.Hour
	var m *model
	build := maker.New
	maker.New = func(w *world.World) world.Product {
		m = build(w).(*model)
		return m
	}
	w := world.New(s, maker, 1)
	return &bench{t, w, m.callers[0]}
}

// tell has an endpoint answer so many times.
func (b *bench) tell(e, times int, o outcome) {
	for range times {
		b.c.rule.picked(b.c, e)
		b.c.rule.ended(b.c, e, o)
	}
}

func (b *bench) after(d time.Duration) { b.w.Until(b.w.Now() + d) }

func (b *bench) want(e int, out bool, when string) {
	b.t.Helper()
	if b.c.out[e] != out {
		b.t.Errorf("%s: endpoint %d out: %v, want %v", when, e, b.c.out[e], out)
	}
}

func TestEnvoyEjectsAtTheFifthErrorInARow(t *testing.T) {
	b := set(t, Envoy("envoy", RoundRobin, EnvoyDefault()), 10)
	b.tell(3, 4, bad)
	b.tell(3, 1, good)
	b.tell(3, 4, bad)
	b.want(3, false, "after 4 + 4 errors with a success between")
	b.tell(3, 1, bad)
	b.want(3, true, "after 5 errors in a row")
	b.tell(4, 50, bad)
	b.want(4, false, "a second of ten would be 20 %")
	b.after(29 * time.Second)
	b.want(3, true, "29 s later")
	for range 12 {
		if b.c.out[3] {
			b.after(time.Second)
		}
	}
	b.want(3, false, "at the first sweep after 30 s")
	b.tell(3, 5, bad) // before the next sweep, which would take one off the record
	b.after(59 * time.Second)
	b.want(3, true, "59 s after the second ejection: 2 x 30 s")
	b.after(12 * time.Second)
	b.want(3, false, "at the first sweep after 60 s")
}

func TestEnvoyOfFewerThanTenHostsEjectsNobody(t *testing.T) {
	b := set(t, Envoy("envoy", RoundRobin, EnvoyDefault()), 9)
	b.tell(3, 50, bad)
	b.want(3, false, "one of nine is 11 %, more than max_ejection_percent")
	cfg := EnvoyDefault()
	cfg.AlwaysOne = true
	b = set(t, Envoy("envoy", RoundRobin, cfg), 9)
	b.tell(3, 5, bad)
	b.want(3, true, "always_eject_one_host")
}

func TestTheSuccessRateOfThreeOfTenIsNoOutlier(t *testing.T) {
	// k of n hosts at 0: z = sqrt((n-k)/k), 3 for one of ten, 1.53 for three.
	for k, want := range map[int]bool{1: true, 2: true, 3: false, 4: false} {
		hosts := make([]envoyHost, 10)
		for e := range hosts {
			hosts[e] = envoyHost{n: 100, ok: 100}
			if e < k {
				hosts[e].ok = 0
			}
		}
		threshold, rates := successThreshold(hosts, 100, 5, 1.9)
		mean := float64(10-k) / 10
		byHand := mean - 1.9*math.Sqrt(mean*(1-mean))
		if math.Abs(threshold-byHand) > 1e-12 {
			t.Errorf("%d of 10 at 0: threshold %v, want %v", k, threshold, byHand)
		}
		if got := rates[0] < threshold; got != want {
			t.Errorf("%d of 10 at 0: outlier %v, want %v", k, got, want)
		}
	}
	few := []envoyHost{{n: 100}, {n: 100, ok: 100}, {n: 100, ok: 100}, {n: 100, ok: 100}, {n: 99, ok: 99}}
	if threshold, _ := successThreshold(few, 100, 5, 1.9); threshold != -1 {
		t.Errorf("four hosts with 100 requests: threshold %v, want none", threshold)
	}
}

func TestEnvoyEagerEjectsByPercentageAtTheNextSweep(t *testing.T) {
	cfg := EnvoyEager()
	cfg.StdevFactor, cfg.Consecutive5xx = 0, 0
	b := set(t, Envoy("envoy", RoundRobin, cfg), 3)
	for e := range 3 {
		b.tell(e, 7, good)
	}
	b.tell(0, 3, bad) // 30 % of ten
	b.tell(1, 3, good)
	b.tell(2, 3, good)
	b.want(0, false, "before the sweep")
	b.after(cfg.Interval)
	b.want(0, true, "after the sweep")
	b.want(1, false, "after the sweep")
}

func TestGRPCMayGoOneBeyondItsPercentage(t *testing.T) {
	b := set(t, GRPC("grpc", RoundRobin, GRPCDefault()), 9)
	for e := range 9 {
		b.tell(e, 100, good)
	}
	b.tell(0, 900, bad) // 10 % success
	b.tell(1, 900, bad)
	b.after(10 * time.Second)
	if n := b.c.outs(); n != 1 {
		t.Errorf("%d ejected, want 1: after the first the share is over 10 %%", n)
	}
}

func TestGRPCLeavesAnEndpointThatItCannotConnectTo(t *testing.T) {
	b := set(t, GRPC("grpc", RoundRobin, GRPCDefault()), 10)
	b.tell(3, 1, refused)
	b.want(3, true, "refused")
	b.after(time.Second)
	b.want(3, false, "connected again")
}

func TestLinkerdShutsAtTheSeventhErrorAndProbesWithOneRequest(t *testing.T) {
	b := set(t, Linkerd("linkerd", PeakEWMA, LinkerdDefault(false)), 10)
	b.tell(3, 6, bad)
	b.want(3, false, "after six")
	b.tell(3, 1, bad)
	b.want(3, true, "after seven")
	b.after(999 * time.Millisecond)
	b.want(3, true, "within the least penalty")
	b.after(502 * time.Millisecond)
	b.want(3, false, "after 1 s and half of it in jitter: one request is let through")
	b.c.rule.picked(b.c, 3)
	b.want(3, true, "while the probe is under way")
	b.c.rule.ended(b.c, 3, bad)
	b.after(1999 * time.Millisecond)
	b.want(3, true, "the second penalty is 2 s at least")
	b.after(1100 * time.Millisecond)
	b.want(3, false, "second probe")
	b.tell(3, 1, good)
	b.tell(3, 6, bad)
	b.want(3, false, "six errors after it was let back in")
}

func TestLinkerdUnifiedShutsBelowEightyPercentOfFive(t *testing.T) {
	b := set(t, Linkerd("linkerd", PeakEWMA, LinkerdDefault(true)), 10)
	b.tell(3, 4, good)
	b.tell(3, 1, bad)
	b.want(3, false, "80 % is not below 80 %")
	b.tell(3, 1, bad)
	b.want(3, true, "4 of 6 is")
	b.tell(4, 2, bad)
	b.tell(4, 2, good)
	b.want(4, false, "four requests are too few")
	b.after(11 * time.Second)
	b.tell(4, 1, good)
	b.want(4, false, "the window has moved on")
}

func TestHAProxyMarksDownAtTheTenthErrorAndChecksBringItBack(t *testing.T) {
	b := set(t, HAProxy("haproxy", RoundRobin, HAProxyDefault()), 10)
	b.tell(3, 9, bad)
	b.tell(3, 1, good)
	b.tell(3, 9, bad)
	b.want(3, false, "never ten in a row")
	b.tell(3, 1, bad)
	b.want(3, true, "ten in a row")
	b.after(4100 * time.Millisecond)
	b.want(3, false, "after two good checks, 2 s apart")
}

func TestNginxLeavesAPeerForTenSecondsAfterOneFailure(t *testing.T) {
	b := set(t, Nginx("nginx", RoundRobin, NginxDefault()), 10)
	b.tell(3, 50, bad)
	b.want(3, false, "a 500 is no failure unless proxy_next_upstream says so")
	b.tell(3, 1, refused)
	b.want(3, true, "refused")
	b.after(9 * time.Second)
	b.want(3, true, "9 s later")
	b.after(1100 * time.Millisecond)
	b.want(3, false, "after fail_timeout")
	b.c.rule.picked(b.c, 3)
	b.want(3, true, "while one request checks it")
	b.after(time.Millisecond)
	b.c.rule.ended(b.c, 3, good)
	b.want(3, false, "it was good")
}

func TestThreeFailedChecksTakeOutAndTwoGoodOnesBringBack(t *testing.T) {
	k := check{fall: 3, rise: 2}
	var h checked
	for i, tc := range []struct{ ok, down bool }{
		{false, false}, {false, false}, {true, false}, {false, false}, {false, false}, {false, true},
		{true, true}, {false, true}, {true, true}, {true, false},
	} {
		h.saw(tc.ok, k)
		if h.down != tc.down {
			t.Errorf("check %d: down %v, want %v", i, h.down, tc.down)
		}
	}
}

func TestEnvoyPanicsBelowHalf(t *testing.T) {
	cfg := EnvoyEager()
	cfg.MaxPercent = 100
	b := set(t, Envoy("envoy", RoundRobin, cfg), 4)
	for e := range 2 {
		b.tell(e, 3, bad)
	}
	if len(b.c.usable) != 2 {
		t.Errorf("two of four out: %d usable, want 2", len(b.c.usable))
	}
	b.tell(2, 3, bad)
	if len(b.c.usable) != 4 {
		t.Errorf("three of four out: %d usable, want all 4 in panic", len(b.c.usable))
	}
}

func TestEveryModelSaysThatItIsOne(t *testing.T) {
	all := All()
	if len(all) < 20 {
		t.Fatalf("%d models, want at least 20", len(all))
	}
	s := world.Default()
	s.Rate, s.Warmup, s.Length = 20, time.Second, 5*time.Second
	for _, m := range all {
		if !m.Model {
			t.Errorf("%s does not say that it is a model", m.Name)
		}
		if m.Source == "" && !strings.HasPrefix(m.Name, "none") {
			t.Errorf("%s does not say where its rule is documented", m.Name)
		}
		f := world.New(s, m, 1).Run().Figures()
		if f["goodput"] < 0.99 {
			t.Errorf("%s: goodput %v in health", m.Name, f["goodput"])
		}
	}
}
