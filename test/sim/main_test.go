package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overhear-mesh/overhear/test/sim/world"
)

func output(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if err := run(args, &out, &errs); err != nil {
		t.Fatalf("sim %v: %v\n%s", args, err, errs.String())
	}
	return out.String()
}

func TestTheSmokeRunTellsWhatItFound(t *testing.T) {
	dir := t.TempDir()
	var report struct {
		Set  string
		Runs []Run
	}
	if err := json.Unmarshal([]byte(output(t, "-smoke", "-json", "-svg", dir)), &report); err != nil {
		t.Fatal(err)
	}
	if report.Set != "tuning seeds" {
		t.Errorf("seeds 1-2 are called %q", report.Set)
	}
	seen := map[string]float64{}
	for _, r := range report.Runs {
		seen[r.Scenario+"/"+r.Product] = r.Figures["harm"].Mean
		if r.Attempts < 1000 {
			t.Errorf("%s with %s: %d attempts", r.Scenario, r.Product, r.Attempts)
		}
		if r.Product != judged {
			continue
		}
		if r.Figures["false-fleet"].Mean != 0 {
			t.Errorf("%s: %v false verdicts of the fleet", r.Scenario, r.Figures["false-fleet"].Mean)
		}
		if f, ok := r.Figures["found"]; ok && f.Mean != 1 {
			t.Errorf("%s: found in %v of the runs", r.Scenario, f.Mean)
		}
	}
	// Not a race, a floor: with detection a fifth of the harm at most.
	for _, s := range []string{"crash-unsafe", "errors-50"} {
		if with, without := seen[s+"/overhear"], seen[s+"/none rr"]; !(with < without/5) {
			t.Errorf("%s: harm %v with overhear, %v with nothing", s, with, without)
		}
	}
	svg, err := os.ReadFile(filepath.Join(dir, "errors-50.svg"))
	if err != nil || !bytes.Contains(svg, []byte("envoy-eager rr (model)")) {
		t.Errorf("the plot does not label a model as one: %v", err)
	}
}

func TestHelpExplainsItself(t *testing.T) {
	var out, errs bytes.Buffer
	if err := run([]string{"-h"}, &out, &errs); err == nil {
		t.Error("-h ran something")
	}
	for _, want := range []string{"held out", "-scenario", "at T ENDPOINTS: FAULT", "false-fleet"} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("the help does not mention %q", want)
		}
	}
}

func TestASoakGivesABoundAlsoForNothing(t *testing.T) {
	got := output(t, "-soak", "2", "-soak-bases", "1%", "-soak-rates", "1", "-seeds", "1001")
	for _, want := range []string{"fleet ejections", "held-out seeds", "2 endpoint-hours", "per endpoint and month", "per pair and month", "per week"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestSeedsOfBothSetsAreToldApart(t *testing.T) {
	for text, want := range map[string]string{"1-20": "tuning seeds", "1001-1002": "held-out seeds", "1000-1001": "tuning and held-out seeds mixed", "1500": "held-out seeds", "tuning": "tuning seeds", "held-out": "held-out seeds"} {
		seeds, err := parseSeeds(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := setName(seeds); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	for _, text := range []string{"", "x", "5-1", "1-9999999"} {
		if _, err := parseSeeds(text); err == nil {
			t.Errorf("%q was taken for seeds", text)
		}
	}
}

func TestWhatDoesNotExistIsSaid(t *testing.T) {
	for _, args := range [][]string{{"-scenario", "nothing"}, {"-products", "traefik"}, {"-set", "colour red"}, {"leftover"}, {"-file", "/does/not/exist"}} {
		var out, errs bytes.Buffer
		if err := run(args, &out, &errs); err == nil {
			t.Errorf("sim %v ran", args)
		}
	}
}

func TestWhatWasProbablyMeantIsNamed(t *testing.T) {
	for args, want := range map[string]string{
		"-scenaro crash":          "there is no flag -scenaro: did you mean -scenario?",
		"-scenario crsh":          `no scenario is called "crsh": did you mean "crash"?`,
		"-scenario zebra":         `no scenario is called "zebra"; see -list`,
		"-products overhear,nune": `no product is called "nune"`,
		"-set caller=3":           `-set: no such setting: "caller=3"`,
		"-set calers":             `-set: no such setting: "calers": did you mean "callers"?`,
	} {
		var out, errs bytes.Buffer
		if err := run(strings.Fields(args), &out, &errs); err == nil || !strings.HasPrefix(err.Error(), want) || errs.Len() > 0 {
			t.Errorf("sim %s: got %v and %q, want %s alone", args, err, errs.String(), want)
		}
	}
}

func TestFlagsThatWouldBeLeftOutAreRefused(t *testing.T) {
	for args, want := range map[string]string{
		"-soak -1":                     "-soak: want endpoint-hours above 0, have -1",
		"-soak 1 -scenario crash":      "-scenario: there is none with -soak",
		"-story -json -scenario crash": "-json: there is none with -story",
		"-whole -file mine.txt":        "-file: there is none with -whole",
		"-mesh Crash -story":           "-mesh and -story: want one of them",
		"-file x.txt -scenario crash":  "-file and -scenario: want one of them",
		"-long -scenario crash":        "-long: for -mesh or -soak only",
		"-seeds few -scenario crash":   "-seeds: want tuning, held-out, a number or a range such as 1-20, have \"few\"",
	} {
		var out, errs bytes.Buffer
		if err := run(strings.Fields(args), &out, &errs); err == nil || err.Error() != want {
			t.Errorf("sim %s: got %v, want %s", args, err, want)
		}
	}
}

func TestASettingThatIsReplacedVariesNoMore(t *testing.T) {
	got, err := pickScenarios(options{scenario: "crash", set: "rate 7, callers 4"})
	if err != nil || len(got) != 1 || got[0].Name != "crash" || got[0].Rate != 7 || got[0].Callers != 4 {
		t.Errorf("got %+v, %v, want one crash at 7/s", got, err)
	}
	if _, err = pickScenarios(options{scenario: "crash", set: "endpoints 2"}); err == nil || !strings.Contains(err.Error(), "there are 0 to 1") {
		t.Errorf("a crash of an endpoint that is gone: got %v", err)
	}
}

func TestAFileOfOnesOwnIsRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mine.txt")
	if err := os.WriteFile(file, []byte("about mine\ncallers 3\nwarmup 5s\nlength 5s\nat 0s endpoint 1: crash\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := output(t, "-file", file, "-seeds", "1-1", "-products", "overhear,none"); !strings.Contains(got, "mine: mine") {
		t.Errorf("got\n%s", got)
	}
}

func TestAFewRunsJudgeOnlyWhatMustNeverBe(t *testing.T) {
	s := Stats{N: 1, Mean: 3, P50: 3, P95: 3, Max: 3}
	for _, c := range []struct {
		stat  string
		value float64
		runs  int
		want  string
	}{
		{"p50", 2, 19, "not judged"},
		{"p95", 4, 19, "not judged"},
		{"mean", 2, 20, "MISSED"},
		{"mean", 4, 20, "ok"},
		{"max", 2, 1, "MISSED"},
		{"max", 4, 1, "ok"},
	} {
		o := judge(world.Want{Measure: "harm", Stat: c.stat, Below: true, Value: c.value}, s, c.runs)
		if got := o.mark(); got != c.want {
			t.Errorf("%d runs, %s of 3, at most %v wanted: %q, want %q", c.runs, c.stat, c.value, got, c.want)
		}
	}
	var out bytes.Buffer
	wants(&out, []Run{{Scenario: "s", Wants: []Outcome{{Want: "w", Met: true, Runs: 2, Needs: 20}, {Want: "x", Met: true, Runs: 2, Needs: 1}}}})
	if got := out.String(); !strings.Contains(got, "1 of 2 met, 1 not judged") || strings.Contains(got, "MISSED") {
		t.Errorf("got %q, want one met and one not judged", got)
	}
}

func TestWhatIsMissedIsAnError(t *testing.T) {
	const story = "callers 3\nwarmup 5s\nlength 5s\nat 0s endpoint 1: crash\n"
	for want, text := range map[string]string{
		"":                                "want false-fleet max <= 0", // a maximum may be judged by one run
		"1 of 2 expectations were missed": "want false-fleet max <= 0\nwant found max <= 0",
		"1 of 1 expectations were missed": "vary rate 10 5 10\nwant found max <= 50% of rate 5",
	} {
		file := filepath.Join(t.TempDir(), "mine.txt")
		if err := os.WriteFile(file, []byte(story+text), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, flags := range [][]string{nil, {"-json"}} {
			var out, errs bytes.Buffer
			got := ""
			if err := run(append(flags, "-file", file, "-seeds", "1-1"), &out, &errs); err != nil {
				got = err.Error()
			}
			if got != want || out.Len() == 0 {
				t.Errorf("%q with %q: error %q and %d bytes of report, want %q and a report", text, flags, got, out.Len(), want)
			}
		}
	}
	_, err := world.Variants("mine", story+"vary rate 5 10\nwant found max <= 50% of callers 3")
	if err == nil || !strings.Contains(err.Error(), `"callers 3" is no value of the only setting that varies`) {
		t.Errorf("compared with what does not vary: got %v", err)
	}
}

func TestNothingIsWantedOfOtherSettingsThanThoseOfTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mine.txt")
	text := "callers 3\nwarmup 5s\nlength 5s\nvary rate 5 10\nat 0s endpoint 1: crash\nwant found max <= 0"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for set, want := range map[string]string{
		"":                   "2 of 2 expectations were missed",
		"rate 10":            "1 of 1 expectations were missed",
		"rate 10, callers 3": "1 of 1 expectations were missed",
		"rate 7":             "",
		"callers 4":          "",
	} {
		var out, errs bytes.Buffer
		got := ""
		if err := run([]string{"-file", file, "-seeds", "1-1", "-set", set}, &out, &errs); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("-set %q: error %q, want %q", set, got, want)
		}
		if told := strings.Contains(out.String(), "they are wanted of the settings of the file") && strings.Contains(out.String(), "other settings"); told != (want == "") {
			t.Errorf("-set %q: that nothing was judged is told: %t", set, told)
		}
	}
}
