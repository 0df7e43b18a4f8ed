package exchange_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/router"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// desk is a cluster without a network, at which exchanges are opened.
type desk struct {
	t       *testing.T
	deps    exchange.Deps
	metrics exchange.Metrics
	cluster *cluster.Cluster
	log     lines
}

type lines []exchange.Record

func (l *lines) Log(r *exchange.Record) {
	kept := *r
	kept.Attempts = append([]exchange.AttemptRecord(nil), r.Attempts...)
	*l = append(*l, kept)
}

// atDesk runs body in a bubble, with a cluster of so many endpoints.
func atDesk(t *testing.T, endpoints int, rule router.Rule, limit func(*cluster.Config), body func(*desk)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg := cluster.DefaultConfig()
		cfg.Name, rule.Cluster = "api", "api"
		if limit != nil {
			limit(&cfg)
		}
		d := &desk{t: t}
		d.cluster = cluster.New(cfg, cluster.Deps{Clock: clock.New(), Seed: 1})
		var specs []cluster.Spec
		for i := range endpoints {
			address := fmt.Sprintf("10.0.1.%d:80", i+1)
			specs = append(specs, cluster.Spec{ID: address, Address: address})
		}
		d.cluster.Update(specs)
		table, err := router.New([]router.Rule{rule}, func(string) *cluster.Cluster { return d.cluster }, new(router.IDs))
		if err != nil {
			t.Fatal(err)
		}
		d.deps = exchange.Deps{Clock: clock.New(), Router: func() *router.Table { return table }, Metrics: &d.metrics, Log: &d.log}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = d.cluster.Run(ctx) })
		synctest.Wait()
		body(d)
		cancel()
		wg.Wait()
	})
}

// update gives the cluster another set of endpoints.
func (d *desk) update(specs []cluster.Spec) {
	d.cluster.Update(specs)
	synctest.Wait()
}

func (d *desk) now() time.Duration { return d.deps.Clock.Now() }

// open begins a request and its first attempt.
func (d *desk) open(method string) *exchange.Exchange {
	d.t.Helper()
	x := new(exchange.Exchange)
	x.Open(d.now(), nil, 1, 1, false)
	x.Record.Method, x.Record.Path = []byte(method), []byte("/")
	if _, refusal := x.Route(&d.deps, d.now()); refusal != nil {
		d.t.Fatalf("refused: %+v", refusal)
	}
	if x.Endpoint = x.Pick(&d.deps, d.now(), false); x.Endpoint == nil {
		d.t.Fatal("nobody to ask")
	}
	x.Begin(d.now(), true)
	return x
}

// close ends a request and whatever runs of it.
func (d *desk) close(x *exchange.Exchange) {
	x.EndHedge(&d.deps, d.now(), exchange.Ended{Ending: outlier.EndHedgeLoser})
	x.End(&d.deps, d.now(), exchange.Ended{Ending: outlier.EndClientAbort})
	x.Leave(d.now())
	x.Account(&d.deps, d.now())
}

// await lets the attempt become overdue.
func (d *desk) await(x *exchange.Exchange) {
	d.t.Helper()
	at := x.HedgeAt(x.Begun)
	if at == wheel.Never {
		d.t.Fatal("never overdue")
	}
	time.Sleep(at - d.now())
}

func answer(t *exchange.Try, status int) {
	t.Headed, t.Answer = true, exchange.Answer{Status: status}
}

func TestAnOverdueRequestGoesToAnotherEndpoint(t *testing.T) {
	atDesk(t, 3, router.DefaultRule(), nil, func(d *desk) {
		x := d.open("GET")
		begun := d.now()
		d.await(x)
		if got, want := d.now()-begun, d.cluster.Overdue(); got != want {
			t.Errorf("overdue after %v, want the detector's %v", got, want)
		}
		ep := x.PickHedge(d.now())
		if ep == nil || ep == x.Endpoint {
			t.Fatalf("hedge on %v, want another endpoint than %v", ep, x.Endpoint)
		}
		x.BeginHedge(ep, d.now())
		if again := x.PickHedge(d.now()); again != nil {
			t.Errorf("a second hedge on %s beside the first", again.ID)
		}
		first := x.Endpoint
		time.Sleep(5 * time.Millisecond)
		answer(&x.Hedge, 200)
		x.Hedge.Attempt.Headers(d.now())
		x.End(&d.deps, d.now(), exchange.Ended{Ending: outlier.EndHedgeLoser, Owed: d.now() - begun})
		x.Promote()
		if x.Endpoint != ep || x.Answer.Status != 200 || x.Hedge.Runs() {
			t.Errorf("after the hedge has won: endpoint %s, answer %+v", x.Endpoint.ID, x.Answer)
		}
		x.End(&d.deps, d.now(), exchange.Ended{Ending: outlier.EndComplete})
		d.close(x)

		rec := d.log[0]
		if rec.Final != 1 || len(rec.Attempts) != 2 || rec.Attempts[0].Hedge || !rec.Attempts[1].Hedge {
			t.Errorf("record: %+v, want the second of two to be final, and a hedge", rec)
		}
		if got := rec.Attempts[0].Class; got != outlier.Censored {
			t.Errorf("the overdue loser is %v, want %v: it must stay evidence", got, outlier.Censored)
		}
		if got := rec.Attempts[1].Class; got != outlier.OK {
			t.Errorf("the winner is %v, want %v", got, outlier.OK)
		}
		if h, won, r := d.metrics.Hedges.Load(), d.metrics.HedgesWon.Load(), d.metrics.Retries.Load(); h != 1 || won != 1 || r != 1 {
			t.Errorf("hedges %d, won %d, retries %d; want one each", h, won, r)
		}
		if n := first.Stats.Inflight() + ep.Stats.Inflight(); n != 0 {
			t.Errorf("%d attempts are still counted in", n)
		}
	})
}

func TestTheFirstMayStillWin(t *testing.T) {
	atDesk(t, 2, router.DefaultRule(), nil, func(d *desk) {
		x := d.open("GET")
		d.await(x)
		first := x.Endpoint
		x.BeginHedge(x.PickHedge(d.now()), d.now())
		time.Sleep(time.Millisecond)
		answer(&x.Try, 200)
		x.EndHedge(&d.deps, d.now(), exchange.Ended{Ending: outlier.EndHedgeLoser, Owed: time.Millisecond})
		x.End(&d.deps, d.now(), exchange.Ended{Ending: outlier.EndComplete})
		d.close(x)
		rec := d.log[0]
		if rec.Final != 0 || rec.Attempts[rec.Final].Endpoint != first {
			t.Errorf("final is attempt %d, want the first", rec.Final)
		}
		if got := rec.Attempts[1].Class; got != outlier.Ignore {
			t.Errorf("a hedge that had no time is %v, want %v", got, outlier.Ignore)
		}
		if h, won := d.metrics.Hedges.Load(), d.metrics.HedgesWon.Load(); h != 1 || won != 0 {
			t.Errorf("hedges %d, won %d; want one and none", h, won)
		}
	})
}

func TestWhatIsNeverHedged(t *testing.T) {
	rule := func(change func(*router.Rule)) router.Rule {
		r := router.DefaultRule()
		change(&r)
		return r
	}
	for _, test := range []struct {
		name, method string
		rule         router.Rule
		hedged       bool
	}{
		{"GET", "GET", rule(func(*router.Rule) {}), true},
		{"HEAD", "HEAD", rule(func(*router.Rule) {}), true},
		{"POST", "POST", rule(func(*router.Rule) {}), false},
		{"PUT, which a late one would undo", "PUT", rule(func(*router.Rule) {}), false},
		{"POST that does no harm twice", "POST", rule(func(r *router.Rule) { r.Retry.AnyMethod = true }), true},
		{"switched off", "GET", rule(func(r *router.Rule) { r.Retry.HedgeOnOverdue = false }), false},
		{"without other attempts", "GET", rule(func(r *router.Rule) { r.Retry.MaxAttempts = 1 }), false},
		{"nobody gives up on it", "GET", rule(func(r *router.Rule) { r.Timeout = 0 }), false},
		{"only the attempt has a time limit", "GET", rule(func(r *router.Rule) { r.Timeout, r.PerTryTimeout = 0, time.Second }), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			atDesk(t, 2, test.rule, nil, func(d *desk) {
				x := d.open(test.method)
				if got := x.HedgeAt(x.Begun) != wheel.Never; got != test.hedged {
					t.Errorf("becomes overdue: got %v, want %v", got, test.hedged)
				}
				time.Sleep(2 * time.Second)
				if got := x.PickHedge(d.now()) != nil; got != test.hedged {
					t.Errorf("hedged: got %v, want %v", got, test.hedged)
				}
				d.close(x)
			})
		})
	}
}

func TestNoHedgeWhere(t *testing.T) {
	for _, test := range []struct {
		name      string
		endpoints int
		limit     func(*cluster.Config)
		before    func(d *desk, x *exchange.Exchange)
	}{
		{name: "there is nobody else", endpoints: 1},
		{name: "the budget is spent", endpoints: 2, limit: func(c *cluster.Config) { c.Budget = resilience.BudgetConfig{} }},
		{name: "an interim answer was passed on", endpoints: 2, before: func(_ *desk, x *exchange.Exchange) { x.Interim = 1 }},
		{name: "the answer has begun", endpoints: 2, before: func(_ *desk, x *exchange.Exchange) { answer(&x.Try, 200) }},
		{name: "the attempt has ended", endpoints: 2, before: func(d *desk, x *exchange.Exchange) {
			x.End(&d.deps, d.now(), exchange.Ended{Ending: outlier.EndConnectionLost})
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			atDesk(t, test.endpoints, router.DefaultRule(), test.limit, func(d *desk) {
				x := d.open("GET")
				d.await(x)
				if test.before != nil {
					test.before(d, x)
				}
				if ep := x.PickHedge(d.now()); ep != nil {
					t.Errorf("hedged on %s", ep.ID)
				}
				d.close(x)
			})
		})
	}
}

// When a whole group stands still, a second attempt helps nobody and only adds to
// what is wrong.
func TestNoHedgeWhereAllAreOverdue(t *testing.T) {
	atDesk(t, 3, router.DefaultRule(), nil, func(d *desk) {
		var all []*exchange.Exchange
		busy := map[*upstream.Endpoint]bool{}
		for len(busy) < 3 {
			x := d.open("GET")
			busy[x.Endpoint] = true
			all = append(all, x)
		}
		d.await(all[0])
		for _, x := range all {
			if ep := x.PickHedge(d.now()); ep != nil {
				t.Errorf("hedged on %s, which is overdue itself", ep.ID)
			}
		}
		// One of them comes back.
		x := all[0]
		back := x.Endpoint
		answer(&x.Try, 200)
		x.End(&d.deps, d.now(), exchange.Ended{Ending: outlier.EndComplete})
		for _, x := range all[1:] {
			if x.Endpoint == back {
				continue
			}
			if ep := x.PickHedge(d.now()); ep != back {
				t.Errorf("hedged on %v, want %s, which answers", ep, back.ID)
			}
		}
		for _, x := range all {
			d.close(x)
		}
	})
}

func TestAHedgeGoesOnWhenTheFirstFails(t *testing.T) {
	atDesk(t, 3, router.DefaultRule(), nil, func(d *desk) {
		x := d.open("GET")
		d.await(x)
		second := x.PickHedge(d.now())
		x.BeginHedge(second, d.now())
		x.End(&d.deps, d.now(), exchange.Ended{Ending: outlier.EndPerTryTimeout, Owed: 2 * time.Second})
		x.Promote()
		if x.Endpoint != second || !x.Runs() || x.Headed {
			t.Fatalf("under way: %+v, want the hedge", x.Try)
		}
		x.Sent = true
		x.End(&d.deps, d.now(), exchange.Ended{Ending: outlier.EndResetBeforeHeaders})
		third, decision := x.Again(&d.deps, d.now(), exchange.Failure{Ending: outlier.EndResetBeforeHeaders, Replayable: true})
		if third == nil || decision != resilience.AskBudget {
			t.Errorf("after both have failed: %v, %v; want a third attempt, within the budget", third, decision)
		}
		d.close(x)
	})
}

func TestAnAnswerThatWouldBeRepeatedIsNotFinal(t *testing.T) {
	rule := router.DefaultRule()
	rule.Retry.On = []resilience.Condition{resilience.GatewayError}
	atDesk(t, 2, rule, nil, func(d *desk) {
		x := d.open("GET")
		for _, test := range []struct {
			answer  exchange.Answer
			rejects bool
		}{
			{exchange.Answer{Status: 200}, false},
			{exchange.Answer{Status: 500}, false},
			{exchange.Answer{Status: 503}, true},
			{exchange.Answer{Status: 503, Origin: outlier.OriginRefused}, true},
		} {
			x.Answer = test.answer
			if got := x.Rejects(&x.Try); got != test.rejects {
				t.Errorf("%+v: rejected %v, want %v", test.answer, got, test.rejects)
			}
		}
		d.close(x)
	})
}
