package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// told is a report of crashes in which Overhear lost so many requests at once, Envoy 25
// and nobody's callers 240, and of one run that does not count.
func told(overhear number) *report {
	o := options{proxies: []int{4, 16}, retries: []bool{false}, rounds: 1}
	o.Warm, o.Fault, o.After, o.Endpoints, o.Rate = 4*time.Second, 6*time.Second, 2*time.Second, 10, 400
	o.scenarios = []scenario{{name: "crash", about: "it dies"}, {name: "health", about: "nothing"}}
	o.products = []product{{name: "overhear"}, {name: "envoy"}, {name: none}}
	r := newReport(o)
	for product, lost := range map[string]number{"overhear": overhear, "envoy": 25, none: 240} {
		for _, n := range o.proxies {
			t := o.setting
			t.Proxies = n
			fleet := number(math.NaN())
			if product == "overhear" {
				fleet = 3
			}
			f := figures{Excess: lost, T95: number(math.Inf(1)), Recovery: number(math.Inf(1)), Said: 4, SaidFleet: 1}
			r.Outcomes = append(r.Outcomes,
				outcome{Scenario: "crash", Product: product, Setting: t, Load: number(n) / 2, Figures: f, Timeline: []int{0, int(lost), 0}},
				outcome{Scenario: "health", Product: product, Setting: t, Load: 2, Figures: figures{Alone: 8, Alarms: 2, SaidFleet: fleet}})
		}
	}
	r.Outcomes = append(r.Outcomes, outcome{Scenario: "crash", Product: "envoy", Setting: o.setting, Load: 3, Discarded: "the generator was late by 90 ms at p99"})
	r.summarise()
	return r
}

func TestTheTablesTellOfEverything(t *testing.T) {
	var b bytes.Buffer
	if err := told(1).markdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"not measured: Linkerd", "## crash: it dies", "16 proxies, 10 endpoints, 400 requests/s", "| envoy | 1 | 25 |", " never |", " > 1.0 |", "; load 2.0 to 8.0 over the runs.",
		"crash, envoy, round 1: the generator was late by 90 ms at p99", "## False alarms", "at most",
		"| envoy | 0 % | 4 | 0.02 | 2 | 90 | 283 | 8 | 0 | – |", "| overhear | 0 % | 4 | 0.02 | 3 | 135 | 349 | 8 | 0 | 3 |",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestThePicturesAreWellFormed(t *testing.T) {
	r := told(1)
	all := r.pictures()
	if len(all) != 4 {
		t.Errorf("%d pictures, want harm, crash, fleets and tradeoff", len(all))
	}
	for name, d := range all {
		var b bytes.Buffer
		if err := d.svg(&b); err != nil {
			t.Fatal(err)
		}
		text := b.String()
		for d := xml.NewDecoder(strings.NewReader(text)); ; {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v in\n%s", name, err, text)
			}
		}
		for _, p := range []string{"overhear", "envoy", none} {
			if !strings.Contains(text, p) {
				t.Errorf("%s: no %s", name, p)
			}
		}
	}
}

func TestOneCrashIsDrawnOfFleetsOfOneSize(t *testing.T) {
	r := told(1)
	for i, o := range r.Outcomes {
		if o.Setting.Proxies == 16 {
			r.Outcomes[i].Timeline = []int{0, 7777, 0}
		}
	}
	// The first in the list may be of either size.
	slices.SortStableFunc(r.Outcomes, func(a, b outcome) int { return b.Setting.Proxies - a.Setting.Proxies })
	var b bytes.Buffer
	if err := r.timelines().svg(&b); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "7777") || !strings.Contains(b.String(), ">240<") {
		t.Errorf("the crash of another fleet is drawn: %s", b.String())
	}
}

func TestSumsAreOverWhatEveryProductTookPartIn(t *testing.T) {
	r := told(1)
	if got, want := len(r.shared()), 2*2*3; got != want {
		t.Errorf("%d rows are shared, want all %d", got, want)
	}
	first := r.rows[0]
	r.rows = r.rows[1:]
	for _, w := range r.shared() {
		if w.Scenario == first.Scenario && w.Setting.Proxies == first.Setting.Proxies {
			t.Errorf("%s of %s with %d proxies is summed, and %s was not there", w.Scenario, w.Product, w.Setting.Proxies, first.Product)
		}
	}
	if got, want := len(r.shared()), 3*3; got != want {
		t.Errorf("%d rows are shared, want %d", got, want)
	}
}

func TestWhoHasNoPartInAScenarioIsNamed(t *testing.T) {
	o, err := parse([]string{"-scenario", "streams reset;trailers 50 %;trailers only 50 %;crash", "-product", "overhear,nginx,grpc,none"})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := newReport(o).markdown(&b); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), "- not measured: in "); n != 3 {
		t.Errorf("%d lines of who has no part, want 3", n)
	}
	for _, name := range []string{"streams reset", "trailers 50 %", "trailers only 50 %"} {
		if want := fmt.Sprintf("- not measured: in %q: nginx, none: ", name); !strings.Contains(b.String(), want) {
			t.Errorf("no %s in\n%s", want, b.String())
		}
	}
	for _, j := range o.jobs() {
		if (j.scenario.streams > 0 || j.scenario.rpc) && (j.product.name == none || j.product.name == "nginx" || !j.setting.HTTP2) {
			t.Errorf("%s runs %q in %+v", j.product.name, j.scenario.name, j.setting)
		}
	}
}

func TestWhatIsMissingIsNamedAndHasNoVersion(t *testing.T) {
	r := newReport(options{})
	here := r.find([]product{
		{name: "lost", config: "haproxy.cfg", find: onPath("no-such-proxy")},
		{name: "ours, not built", config: "overhear.yaml", find: onPath("no-such-proxy")},
		{name: "broken", config: "nginx.conf", find: onPath("false")},
		{name: none},
	}, t.TempDir())
	if len(here) != 1 || len(r.absent) != 3 || len(r.Versions) != 0 {
		t.Errorf("%d here, %d absent, versions of %v; want none here, 3 absent, and no versions", len(here), len(r.absent), r.Versions)
	}
	var b bytes.Buffer
	if err := r.markdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\n- not measured: lost: ", "\n- not measured: ours, not built: ", "\n- not measured: broken: "} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestTheCommandCanBeTypedAgain(t *testing.T) {
	got, want := typed([]string{"-scenario", "crash;errors 50 %", "-rounds", "1"}), "go run ./test/bench/failover -scenario 'crash;errors 50 %' -rounds 1"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestWhatNeverHappenedIsNullInJSON(t *testing.T) {
	text, err := json.Marshal(told(1))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(`"t_95_s":null`)) {
		t.Errorf("no null in %s", text)
	}
}

func TestTheSmokeFailsWhenAnOrderTurnsRound(t *testing.T) {
	if err := told(5).judge(); err != nil {
		t.Errorf("5 failed, 25 and 240 are in order, but: %v", err)
	}
	if err := told(40).judge(); err == nil {
		t.Error("40 failed where Envoy lost 25, and nobody minds")
	}
	r := told(5)
	r.Outcomes[0].broken = true
	if err := r.judge(); err == nil {
		t.Error("a run did not take place, and nobody minds")
	}
	r = told(5)
	r.rows = nil
	if err := r.judge(); err == nil {
		t.Error("no run counts, and nobody minds")
	}
	r = told(5)
	missing := product{name: "lost", config: "lost.yaml", find: onPath("no-such-proxy")}
	if here := r.find([]product{missing, {name: none}}, t.TempDir()); len(here) != 1 || here[0].name != none {
		t.Errorf("%d products are there, want none alone", len(here))
	}
	if err := r.judge(); err == nil {
		t.Error("a product is not there, and nobody minds")
	}
}
