package world

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/test/sim/scenarios"
)

func TestAScenarioIsReadAsItIsWritten(t *testing.T) {
	got := story(t, `
about   a crash   # not the about
callers 6
zones   3
per-node 2
rate    2.5
base    1%
at 10s  endpoint 1,3-4: heal
at 0s   endpoint 1,3-4: errors 20%
at 1s   zone 1 -> endpoint 0: unreachable
at 2s   endpoint 2: slow x10 5%
at 3s   control: down
want    off p95 <= 100ms
want    found mean >= 1
want    goodput mean >= 98% without
`)
	want := Default()
	want.Name, want.About, want.Callers, want.Zones, want.PerNode, want.Rate, want.Base = "story", "a crash", 6, 3, 2, 2.5, 0.01
	want.Steps = []Step{
		{At: 0, To: []int{1, 3, 4}, Fault: Fault{Kind: Errors, Share: 0.2}},
		{At: time.Second, From: []int{1, 4}, To: []int{0}, Fault: Fault{Kind: Unreachable, Share: 1}},
		{At: 2 * time.Second, To: []int{2}, Fault: Fault{Kind: Slow, Share: 0.05, Factor: 10}},
		{At: 3 * time.Second, Fault: Fault{Kind: ControlDown}},
		{At: 10 * time.Second, To: []int{1, 3, 4}, Fault: Fault{Kind: Heal, Share: 1}},
	}
	want.Wants = []Want{{Measure: "off", Stat: "p95", Below: true, Value: 0.1}, {Measure: "found", Stat: "mean", Value: 1}, {Measure: "goodput", Stat: "mean", Value: 0.98, Without: true}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFlappingIsSpelledOut(t *testing.T) {
	s := story(t, "length 20s\nat 0s endpoint 0: flap 5s 5s crash")
	var got []string
	for _, step := range s.Steps {
		got = append(got, step.At.String()+" "+step.Fault.Kind.String())
	}
	want := []string{"0s crash", "5s heal", "10s crash", "15s heal"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhatIsWrongIsNamedWithItsLine(t *testing.T) {
	for text, want := range map[string]string{
		"\ncallers none":                      "story.txt:2: callers: want a number",
		"colour red":                          "no such setting: \"colour\"; there are about, backups,",
		"base 3":                              "want a share like 20%",
		"at 0s endpoint 30: crash":            "there are 0 to 9",
		"at 0s endpoint 1: explode":           "there are heal, crash,",
		"at 0s endpoint 1 crash":              "at TIME ENDPOINTS: FAULT",
		"at soon endpoint 1: crash":           "want a time",
		"at 0s zone 7: crash":                 "\"zone 7\": there is nobody of that kind",
		"at 30s endpoint 1: crash":            "30s never comes: the scenario ends at 30s",
		"at 0s caller 1 -> all: crash":        "no fault of a way",
		"at 0s control: sideways":             "not \"sideways\"",
		"at 0s endpoint 1: pause 2s every 1s": "never ends",
		"at 0s endpoint 1: flap 0 0 crash":    "too fast",
		"want speed p50 <= 1s":                "no measure",
		"want off p51 <= 1s":                  "no statistic \"p51\": did you mean \"p50\"?",
		"vary rate 1 x":                       "vary: rate",
		"rate 0":                              "must be above 0",
		"callers 100000\nendpoints 100000":    "too many",
		"balance magic":                       "want one of p2c",
		"backups 10":                          "nothing to back up",
		"label v2 endpoint 1":                 "label KEY=VALUE",
		"label version=v2 endpoint 12":        "there are 0 to 9",
		"at 0s endpoint 1: clock +5s":         "who is \"endpoint 1\"",
		"at 0s caller 1: clock fast":          "clock +TIME",
		"control maybe":                       "want yes or no",
		"\n\nat 0s endpoint 1: overlode 20%":  "story.txt:3: at: no such fault: \"overlode\": did you mean \"overload\"?",
		"\nwant spede p50 <= 1":               "story.txt:2: want: no measure \"spede\"; there are ",
		"\nreport-dealy 1s":                   "story.txt:2: no such setting: \"report-dealy\": did you mean \"report-delay\"?",
		"wamt off p50 <= 1s":                  "no such setting: \"wamt\": did you mean \"want\"?",
		"inbound perhaps":                     "want yes or no",
		"ping loud":                           "want tcp, http or off",
		"at 0s endpoint 1: crash now":         "what is \"now\"",
	} {
		_, err := Parse("story", text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v\nwant an error with %q", text, err, want)
		}
	}
}

func TestAValueThatIsNotUnderstoodIsSaidOnce(t *testing.T) {
	_, err := Parse("story", "rate 5 6")
	if got, want := fmt.Sprint(err), `story.txt:1: rate: want a number from 0 to 1e+06, have "5 6"`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEveryCombinationOfWhatVariesIsAVariant(t *testing.T) {
	all, err := Variants("s", "vary rate 1 5\nvary callers 2 3\nat 0s caller 1 -> all: errors 5%")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range all {
		got = append(got, s.Name)
	}
	want := []string{"s rate 1 callers 2", "s rate 1 callers 3", "s rate 5 callers 2", "s rate 5 callers 3"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEveryScenarioOfTheRepositoryIsRead(t *testing.T) {
	all, err := Load(scenarios.Files)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 90 {
		t.Errorf("%d scenarios, want at least 90", len(all))
	}
	for _, s := range all {
		if s.About == "" {
			t.Errorf("%s does not say what it is about", s.Name)
		}
		if len(s.Wants) == 0 {
			t.Errorf("%s wants nothing of overhear", s.Name)
		}
	}
}

// FuzzParse: whatever is in a file, it is read or refused, and what is read can run.
func FuzzParse(f *testing.F) {
	f.Add("callers 3\nat 0s endpoint 1: flap 1s 1s errors 5%\nvary rate 1 2\nwant off p50 <= 1s")
	f.Add("zones 3\nat 1s zone 2 -> endpoint 0-1: slow x3 5%\nat 2s all: pause 1s every 2s")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse("fuzz", text)
		if err != nil {
			return
		}
		if s.Callers < 1 || s.Endpoints < 1 || s.Zones < 1 || s.Rate <= 0 {
			t.Errorf("%q gives %+v", text, s)
		}
		for _, step := range s.Steps {
			for _, e := range step.To {
				if e < 0 || e >= s.Endpoints {
					t.Errorf("%q names endpoint %d", text, e)
				}
			}
			for _, c := range step.From {
				if c < 0 || c >= s.Callers {
					t.Errorf("%q names caller %d", text, c)
				}
			}
		}
	})
}
