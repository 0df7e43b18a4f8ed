package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/test/fakeupstream"
	program "github.com/overhear-mesh/overhear/test/process"
)

// short is a run of a few milliseconds, without proxies.
func short(t *testing.T) options {
	o, err := parse([]string{"-scenario", "crash", "-product", none, "-rounds", "2", "-warm", "20ms", "-phase", "0", "-fault", "20ms", "-after", "0", "-late", "10s", "-out", t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func tables(t *testing.T, o options) string {
	text, err := os.ReadFile(filepath.Join(o.out, "tables.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestRunsOfWhichNoneCountsAreAnError(t *testing.T) {
	o := short(t)
	if err := run(t.Context(), o); err != nil {
		t.Errorf("both runs count, but: %v", err)
	}
	o.late = 1
	if err := run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "no run counts, of 2") {
		t.Errorf("got %v, want that no run counts", err)
	}
	if !strings.Contains(tables(t, o), "the generator was late") {
		t.Error("there is no report of it")
	}
}

func TestAnInterruptLeavesTheReportOfWhatWasMeasured(t *testing.T) {
	o := short(t)
	o.Fault = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := run(ctx, o); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("got %v, want that it was interrupted", err)
	}
	if text := tables(t, o); !strings.Contains(text, "**Not complete: interrupted during run 1 of 2.**") || !strings.Contains(text, "\nnone.\n") {
		t.Errorf("want the mark and no discarded run in\n%s", text)
	}
}

func TestAProcessThatEndsInMidRunEndsTheRun(t *testing.T) {
	start := func(script string) *program.Process {
		p, err := program.Start([]string{"sh", "-c", script}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Kill)
		return p
	}
	f := &fleet{proxies: []*program.Process{start("exec sleep 600"), start("exec sleep 600")}, control: start("exec sleep 600")}
	if err := f.until(t.Context(), time.Now()); err != nil {
		t.Errorf("all run, but: %v", err)
	}
	f.behead()
	if err := f.until(t.Context(), time.Now()); err != nil {
		t.Errorf("the control plane was killed on purpose, but: %v", err)
	}
	f.proxies[1] = start("echo out of memory; exit 3")
	err := f.until(t.Context(), time.Now().Add(time.Hour))
	if err == nil || !strings.Contains(err.Error(), "proxy 1 ended in mid-run, exit status 3: out of memory") {
		t.Errorf("got %v, want how the second proxy ended", err)
	}
	f.proxies, f.control = f.proxies[:1], start("exit 0")
	err = f.until(t.Context(), time.Now().Add(time.Hour))
	if err == nil || !strings.Contains(err.Error(), "the control plane ended in mid-run, exit status 0") {
		t.Errorf("got %v, want how the control plane ended", err)
	}
}

func TestWhatBackendsHaveForgottenIsNoSilence(t *testing.T) {
	r := &report{options: options{late: time.Second}}
	if why := r.objection(&trace{}, figures{}); why != "" {
		t.Errorf("nothing is wrong, but: %s", why)
	}
	if why := r.objection(&trace{forgotten: 1 << 19}, figures{}); !strings.Contains(why, "524288 requests are forgotten") {
		t.Errorf("got %q, want what is forgotten", why)
	}
}

func TestSomeUsersGiveUpDuringTheFault(t *testing.T) {
	s := scenario{aborts: .5, callers: everyone}
	set := setting{Proxies: 1, Endpoints: 2, Rate: 1000, Timeout: time.Minute, Latency: 20 * time.Millisecond, Warm: 100 * time.Millisecond, Fault: 100 * time.Millisecond}
	tr, err := play(t.Context(), product{}, s, set, "", "")
	if err != nil {
		t.Fatal(err)
	}
	aborted := 0
	for _, r := range tr.requests {
		switch {
		case r.doomed:
			if r.at < 0 || r.at >= set.Fault {
				t.Errorf("a user gives up %v after the fault came", r.at)
			}
			if r.why != "" { // else this machine stood still, and the answer was there first
				aborted++
			}
		case r.why != "":
			t.Errorf("a user who waits learns of %q", r.why)
		}
	}
	if aborted == 0 {
		t.Errorf("nobody of %d gave up", len(tr.requests))
	}
}

func TestImpatientUsersDoNotWaitForTheProxy(t *testing.T) {
	set := setting{Timeout: time.Second, Latency: 10 * time.Millisecond}
	impatient := scenario{impatient: true}
	for _, c := range []struct {
		g       *generator
		aborted bool
		want    time.Duration
	}{
		{&generator{}, false, 2 * time.Second}, {&generator{direct: []string{"a"}}, false, time.Second},
		{&generator{scenario: impatient}, false, time.Second / 3}, {&generator{scenario: impatient, direct: []string{"a"}}, false, time.Second / 3},
		{&generator{}, true, 5 * time.Millisecond},
	} {
		c.g.setting = set
		if got := c.g.patience(c.aborted); got != c.want {
			t.Errorf("impatient %v, directly %v, aborted %v: waits for %v, want %v", c.g.impatient, c.g.direct != nil, c.aborted, got, c.want)
		}
	}
}

func TestAnIdleFaultComesWhileNobodyAsks(t *testing.T) {
	s := scenario{silence: 80 * time.Millisecond, lead: 40 * time.Millisecond, fault: fakeupstream.Errors(1), bad: everyone, callers: everyone}
	set := setting{Proxies: 1, Endpoints: 2, Rate: 1000, Timeout: time.Minute, Warm: 50 * time.Millisecond, Fault: 50 * time.Millisecond}
	tr, err := play(t.Context(), product{}, s, set, "", "")
	if err != nil {
		t.Fatal(err)
	}
	before, after := 0, 0
	for _, r := range tr.requests {
		switch {
		case r.at < -s.silence:
			before++
		case r.at < 0:
			t.Errorf("a user asks %v before the end of the silence", -r.at)
		case r.at < set.Fault/2:
			after++
			if r.why == "" {
				t.Errorf("%v after the silence all is well", r.at)
			}
		}
	}
	if before == 0 || after == 0 {
		t.Errorf("%d requests before the silence and %d after it, want some", before, after)
	}
}
