package world

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Language is the manual of scenario files.
const Language = `A scenario is a text file; # begins a comment. Settings, one a line:

  about TEXT            one line on what it shows
  callers N             sidecars with users                      10
  endpoints N                                                    10
  zones N               over which both are dealt in turn        2
  per-node N            callers on one machine                   1
  rate R                attempts/s into each endpoint, of all    50
  base P%               requests that fail in health             0.1%
  unsafe P%             requests that must not be sent twice     0%
  routes N              over which requests are spread           1
  latency D             median of an endpoint                    2ms
  sigma X               spread of its logarithm                  0.5
  timeout D             of a request                             15s
  patience D            after which users leave; 0 never         0
  keep-alive D          after which endpoints close what is idle 0
  near D, far D         one way within, between zones            200us, 1ms
  jitter X              of a delay, added at random              0.5
  inbound yes|no        a sidecar in front of each endpoint      no
  ping tcp|http|off     of idle endpoints and of probes          tcp
  leave-out N           fault domains that may lie               1
  control yes|no        there is a control plane                 yes
  balance POLICY        p2c, round_robin, random, least_request, p2c
                        ring_hash, maglev: overhear's picker
  prefer-zone yes|no    one's own zone is used first             no
  backups N             the last N are of the second priority    0
  keys N                of requests, to hash; 0: by route        0
  label K=V ENDPOINTS   what operators say of them
  report-delay D        of messages to the control plane         0
  report-jitter D       the same, at random up to D              0
  warmup D, length D    before and after instant 0               60s, 30s
  vary KEY V V V        run the scenario with each value

Events, in virtual time after the warm-up:

  at T ENDPOINTS: FAULT             the endpoints are at fault
  at T CALLERS -> ENDPOINTS: FAULT  only the way from these callers is
  at T CALLERS: clock +D|-D         all that they say of time is off by so much more
  at T control: down|up             the control plane

ENDPOINTS: all, endpoint 3, endpoint 0-2, endpoint 1,4, zone 0.
CALLERS: all, caller 2, caller 0-2, node 0, zone 1.
FAULT:
  crash                 its listener is closed and all its connections are reset
  listener              its listener alone is gone
  hang                  it accepts and never answers
  blackhole             nothing comes back from it, not even to a SYN
  unreachable           an ICMP error, at once
  errors P%             so many of its answers are 500
  stall P%              so many stop after the headers
  cut P%                so many are cut off in the body
  trailers P%           so many are gRPC's, with UNAVAILABLE in the trailers
  no-trailers P%        so many are gRPC's, and end without a status
  alternate             every other answer is a 500
  slow xF [P%]          so many take F times as long
  pause D every D       it stands still now and then
  overload P%           so many are 503 with Retry-After
  limit P%              so many are 429
  capacity R            it can do R a second and queues the rest, then says 503
  poison ROUTE          one route fails
  reset                 all its connections are reset, once
  drain, undrain        the registry says that it is leaving, or not
  restart               a new process under the same instance
  replace               another instance takes its place
  heal                  an end to all that
  flap D D FAULT        the fault for the first time, health for the second, and again
Ways can have: blackhole, unreachable, errors P%, slow xF [P%], heal, and flap of these.

Expectations of overhear, over all seeds; "98% without" is that part of what the same
seeds give without detection, and "120% of callers 10" that part of what they give with
this value of "vary", asked of the values after it. All but a max need 20 seeds, and are
not judged by fewer; none is judged where -set gives settings that the file does not have;
what is missed makes sim exit with 1:

  want MEASURE p50|p95|max|mean <=|>= VALUE
  want MEASURE p50|p95|max|mean <=|>= P% without
  want MEASURE p50|p95|max|mean <=|>= P% of SETTING VALUE

`

// maxSize bounds callers, endpoints and the like: a typing error must not fill
// the memory.
const maxSize = 100_000

// Parse reads a scenario. It names every line that it does not understand.
func Parse(name, text string) (Scenario, error) {
	s := Default()
	s.Name = name
	p := parser{s: &s, name: name}
	var later []string // who there is may be said further down
	var at []int
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		p.line = i + 1
		switch fields[0] {
		case "at", "label":
			later, at = append(later, line), append(at, i+1)
		case "vary":
			p.vary(fields[1:])
		case "want":
			p.want(fields[1:])
		default:
			p.check(s.Set(fields[0], strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), fields[0]))))
		}
	}
	if err := s.validate(); err != nil && p.errs == nil { // what was not understood is said once
		p.errs = append(p.errs, fmt.Errorf("%s.txt: %w", name, err))
	}
	if p.errs == nil {
		for i, line := range later {
			p.line = at[i]
			if strings.HasPrefix(strings.TrimSpace(line), "label") {
				p.label(strings.Fields(line)[1:])
			} else {
				p.step(line)
			}
		}
		slices.SortStableFunc(s.Steps, func(a, b Step) int { return int(max(-1, min(1, a.At-b.At))) })
	}
	if err := errors.Join(p.errs...); err != nil {
		return Scenario{}, err
	}
	return s, nil
}

// Load reads every scenario of a folder, by name.
func Load(dir fs.FS) ([]Scenario, error) {
	files, err := fs.Glob(dir, "*.txt")
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	all := make([]Scenario, 0, len(files))
	var errs []error
	for _, f := range files {
		text, err := fs.ReadFile(dir, f)
		if err != nil {
			return nil, err
		}
		s, err := Parse(strings.TrimSuffix(path.Base(f), ".txt"), string(text))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, s)
	}
	return all, errors.Join(errs...)
}

// Variants are the scenario with every combination of what it varies, each named
// by its values. Steps that speak of who there is are read anew for each. Lines of
// set replace settings, and a setting that is replaced varies no more: what comes of
// that, if it is none of the variants of the text alone, is marked as changed.
func Variants(name, text string, set ...string) ([]Scenario, error) {
	all, err := variants(name, text, set)
	if err != nil || len(set) == 0 {
		return all, err
	}
	written, _ := variants(name, text, nil) // of a text that is right only with set all are changed
	for i := range all {
		all[i].Changed = !slices.ContainsFunc(written, func(w Scenario) bool {
			w.Name = all[i].Name
			return reflect.DeepEqual(w, all[i])
		})
	}
	return all, nil
}

func variants(name, text string, set []string) ([]Scenario, error) {
	text = strings.Join(append([]string{text}, set...), "\n")
	first, err := Parse(name, text)
	if err != nil {
		return nil, err
	}
	if err := first.compared(); err != nil {
		return nil, fmt.Errorf("%s.txt: %w", name, err)
	}
	variants := []string{""}
	for _, v := range first.Vary {
		if slices.ContainsFunc(set, func(line string) bool { return strings.Fields(line)[0] == v.Key }) {
			continue
		}
		var next []string
		for _, have := range variants {
			for _, value := range v.Values {
				next = append(next, have+v.Key+" "+value+"\n")
			}
		}
		variants = next
	}
	var all []Scenario
	for _, extra := range variants {
		s, err := Parse(name, text+"\n"+extra)
		if err != nil {
			return nil, err
		}
		s.Name = strings.TrimSpace(name + " " + strings.ReplaceAll(strings.TrimSpace(extra), "\n", " "))
		s.Vary = nil
		all = append(all, s)
	}
	return all, nil
}

// compared says whether the variants are there with which others are compared.
func (s *Scenario) compared() error {
	for _, w := range s.Wants {
		key, value, _ := strings.Cut(w.Of, " ")
		if w.Of != "" && (len(s.Vary) != 1 || s.Vary[0].Key != key || !slices.Contains(s.Vary[0].Values, value)) {
			return fmt.Errorf("want: %q is no value of the only setting that varies", w.Of)
		}
	}
	return nil
}

type parser struct {
	s    *Scenario
	name string
	line int
	errs []error
}

func (p *parser) check(err error) {
	if err != nil {
		p.errs = append(p.errs, fmt.Errorf("%s.txt:%d: %w", p.name, p.line, err))
	}
}

func (s *Scenario) validate() error {
	if s.Rate <= 0 || s.Timeout <= 0 || s.Length <= 0 {
		return errors.New("rate, timeout and length must be above 0")
	}
	if s.Backups >= s.Endpoints {
		return fmt.Errorf("%d backups of %d endpoints leave nothing to back up", s.Backups, s.Endpoints)
	}
	if pairs := s.Callers * s.Endpoints; pairs > 10_000_000 {
		return fmt.Errorf("%d pairs of caller and endpoint are too many", pairs)
	}
	return nil
}

func (p *parser) vary(fields []string) {
	if len(fields) < 2 {
		p.check(errors.New("vary: want a setting and its values"))
		return
	}
	v := Variation{Key: fields[0], Values: fields[1:]}
	for _, value := range v.Values {
		probe := *p.s
		if err := probe.Set(v.Key, value); err != nil {
			p.check(fmt.Errorf("vary: %w", err))
			return
		}
	}
	p.s.Vary = append(p.s.Vary, v)
}

func (p *parser) want(fields []string) {
	without := len(fields) == 5 && fields[4] == "without"
	variant := len(fields) == 7 && fields[4] == "of"
	if len(fields) != 4 && !without && !variant {
		p.check(errors.New("want: write want MEASURE p50|p95|max|mean <=|>= VALUE"))
		return
	}
	w := Want{Measure: fields[0], Stat: fields[1], Below: fields[2] == "<="}
	switch {
	case measureOf(w.Measure) == nil:
		p.check(fmt.Errorf("want: no measure %q%s", w.Measure, meant(w.Measure, MeasureNames())))
		return
	case !slices.Contains([]string{"p50", "p95", "max", "mean"}, w.Stat):
		p.check(fmt.Errorf("want: no statistic %q%s", w.Stat, meant(w.Stat, []string{"p50", "p95", "max", "mean"})))
		return
	case !w.Below && fields[2] != ">=":
		p.check(fmt.Errorf("want: %q is neither <= nor >=", fields[2]))
		return
	}
	if variant {
		w.Of = fields[5] + " " + fields[6]
	}
	if w.Without = without; without || variant {
		most := 100.0 // of what there would be without; more than the variant's may be allowed
		if variant {
			most = 1000
		}
		var err error
		if w.Value, err = percentUpTo(most, fields[3]); err != nil {
			p.check(fmt.Errorf("want: %w", err))
			return
		}
	} else if d, err := time.ParseDuration(fields[3]); err == nil {
		w.Value = d.Seconds()
	} else if w.Value, err = number(fields[3], -1e12, 1e12); err != nil {
		p.check(fmt.Errorf("want: %w", err))
		return
	}
	p.s.Wants = append(p.s.Wants, w)
}

// label reads "KEY=VALUE ENDPOINTS".
func (p *parser) label(fields []string) {
	if len(fields) < 2 || !strings.Contains(fields[0], "=") {
		p.check(errors.New("label: write label KEY=VALUE ENDPOINTS"))
		return
	}
	var l Label
	l.Key, l.Value, _ = strings.Cut(fields[0], "=")
	var err error
	if l.To, err = p.s.endpoints(strings.Join(fields[1:], " ")); err != nil {
		p.check(fmt.Errorf("label: %w", err))
		return
	}
	p.s.Labels = append(p.s.Labels, l)
}

// step reads "at T [CALLERS ->] ENDPOINTS: FAULT".
func (p *parser) step(line string) {
	head, fault, found := strings.Cut(line, ":")
	fields := strings.Fields(head)
	if !found || len(fields) < 3 {
		p.check(errors.New("at: write at TIME ENDPOINTS: FAULT"))
		return
	}
	at, err := span(fields[1])
	if err != nil {
		p.check(fmt.Errorf("at: %w", err))
		return
	}
	if at >= p.s.Length {
		p.check(fmt.Errorf("at: %v never comes: the scenario ends at %v (length)", at, p.s.Length))
		return
	}
	step := Step{At: at}
	who := strings.Join(fields[2:], " ")
	words := strings.Fields(fault)
	if who == "control" {
		switch strings.Join(words, " ") {
		case "down":
			step.Fault.Kind = ControlDown
		case "up":
			step.Fault.Kind = ControlUp
		default:
			p.check(fmt.Errorf("at: the control plane can go down and up, not %q", strings.TrimSpace(fault)))
			return
		}
		p.s.Steps = append(p.s.Steps, step)
		return
	}
	if len(words) > 0 && words[0] == "clock" {
		p.clock(step, who, words[1:])
		return
	}
	if from, to, arrow := strings.Cut(who, "->"); arrow {
		if step.From, err = p.s.callers(strings.TrimSpace(from)); err != nil {
			p.check(fmt.Errorf("at: %w", err))
			return
		}
		who = strings.TrimSpace(to)
	}
	if step.To, err = p.s.endpoints(who); err != nil {
		p.check(fmt.Errorf("at: %w", err))
		return
	}
	if err := p.s.fault(step, words); err != nil {
		p.check(fmt.Errorf("at: %w", err))
	}
}

// clock reads "at T CALLERS: clock +D".
func (p *parser) clock(step Step, who string, words []string) {
	var err error
	if step.From, err = p.s.callers(who); err != nil {
		p.check(fmt.Errorf("at: clock: %w", err))
		return
	}
	step.Fault.Kind = Clock
	if len(words) == 1 {
		step.Fault.For, err = time.ParseDuration(words[0])
	}
	if len(words) != 1 || err != nil || step.Fault.For == 0 || step.Fault.For.Abs() > maxSpan {
		p.check(fmt.Errorf("at: write clock +TIME or clock -TIME, not clock %s", strings.Join(words, " ")))
		return
	}
	p.s.Steps = append(p.s.Steps, step)
}

// maxFlaps bounds what one line of flapping becomes.
const maxFlaps = 100_000

// fault adds the step with the fault that the words tell.
func (s *Scenario) fault(step Step, words []string) error {
	if len(words) > 0 && words[0] == "flap" {
		if len(words) < 4 || words[3] == "flap" {
			return errors.New("write flap DOWN UP FAULT")
		}
		down, err := span(words[1])
		if err != nil {
			return err
		}
		up, err := span(words[2])
		if err != nil {
			return err
		}
		if down+up <= 0 || (s.Length-step.At)/(down+up) > maxFlaps {
			return errors.New("flap: too fast")
		}
		for at := step.At; at < s.Length; at += down + up {
			step.At = at
			if err := s.fault(step, words[3:]); err != nil {
				return err
			}
			s.Steps = append(s.Steps, Step{At: at + down, From: step.From, To: step.To})
		}
		return nil
	}
	f, err := parseFault(words)
	if err != nil {
		return err
	}
	if step.From != nil && !slices.Contains([]FaultKind{Heal, Blackhole, Unreachable, Errors, Slow}, f.Kind) {
		return fmt.Errorf("%v is no fault of a way: want blackhole, unreachable, errors, slow or heal", f.Kind)
	}
	step.Fault = f
	s.Steps = append(s.Steps, step)
	return nil
}

func parseFault(words []string) (Fault, error) {
	f := Fault{Share: 1}
	if len(words) == 0 {
		return f, errors.New("what happens to it?")
	}
	i := slices.Index(faultNames[:], words[0])
	if i < 0 || FaultKind(i) >= Clock {
		return f, fmt.Errorf("no such fault: %q%s", words[0], meant(words[0], append(slices.Clone(faultNames[:Clock]), "flap")))
	}
	f.Kind = FaultKind(i)
	words = words[1:]
	var err error
	switch f.Kind {
	case Errors, Stall, Cut, Trailers, NoTrailers, Overload, Limit:
		if len(words) > 1 {
			return f, fmt.Errorf("%v: want one share", f.Kind)
		}
		if len(words) == 1 {
			f.Share, err = percent(words[0])
		}
		return f, err
	case Slow:
		if len(words) < 1 || len(words) > 2 || !strings.HasPrefix(words[0], "x") {
			return f, errors.New("slow: write slow xFACTOR [SHARE]")
		}
		if f.Factor, err = number(words[0][1:], 0, 1e6); err == nil && len(words) == 2 {
			f.Share, err = percent(words[1])
		}
		return f, err
	case Pause:
		if len(words) != 3 || words[1] != "every" {
			return f, errors.New("pause: write pause TIME every TIME")
		}
		if f.For, err = span(words[0]); err != nil {
			return f, err
		}
		if f.Every, err = span(words[2]); err == nil && f.Every <= f.For {
			err = errors.New("pause: it never ends")
		}
		return f, err
	case Capacity, Poison:
		if len(words) != 1 {
			return f, fmt.Errorf("%v: want one number", f.Kind)
		}
		f.Number, err = number(words[0], 0, 1e6)
		if err == nil && f.Kind == Capacity && f.Number == 0 {
			err = errors.New("capacity: want more than 0")
		}
		return f, err
	}
	if len(words) > 0 {
		return f, fmt.Errorf("%v: what is %q?", f.Kind, strings.Join(words, " "))
	}
	return f, nil
}

// callers are those that a selector names.
func (s *Scenario) callers(who string) ([]int, error) {
	kind, which, _ := strings.Cut(who, " ")
	switch kind {
	case "all":
		return pick(who, s.Callers, func(int) bool { return which == "" })
	case "caller", "callers":
		return list(which, s.Callers)
	case "zone":
		zone, err := count(which, 0)
		if err != nil {
			return nil, err
		}
		return pick(who, s.Callers, func(i int) bool { return s.Zone(i) == zone })
	case "node":
		node, err := count(which, 0)
		if err != nil {
			return nil, err
		}
		return pick(who, s.Callers, func(i int) bool { return s.Node(i) == node })
	}
	return nil, fmt.Errorf("who is %q? want all, caller N, node N or zone N", who)
}

func (s *Scenario) endpoints(who string) ([]int, error) {
	kind, which, _ := strings.Cut(who, " ")
	switch kind {
	case "all":
		return pick(who, s.Endpoints, func(int) bool { return which == "" })
	case "endpoint", "endpoints":
		return list(which, s.Endpoints)
	case "zone":
		zone, err := count(which, 0)
		if err != nil {
			return nil, err
		}
		return pick(who, s.Endpoints, func(i int) bool { return s.Zone(i) == zone })
	}
	return nil, fmt.Errorf("who is %q? want all, endpoint N or zone N", who)
}

func pick(who string, n int, of func(int) bool) ([]int, error) {
	var all []int
	for i := range n {
		if of(i) {
			all = append(all, i)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%q: there is nobody of that kind", who)
	}
	return all, nil
}

// list reads "3", "0-2" and "1,4".
func list(text string, n int) ([]int, error) {
	var all []int
	for part := range strings.SplitSeq(text, ",") {
		low, high, ranged := strings.Cut(part, "-")
		a, err := count(low, 0)
		if err != nil {
			return nil, err
		}
		b := a
		if ranged {
			if b, err = count(high, 0); err != nil {
				return nil, err
			}
		}
		if a > b || b >= n {
			return nil, fmt.Errorf("%q: there are 0 to %d", part, n-1)
		}
		for i := a; i <= b; i++ {
			if !slices.Contains(all, i) {
				all = append(all, i)
			}
		}
	}
	slices.Sort(all)
	return all, nil
}

func yes(text string) (bool, error) {
	if text != "yes" && text != "no" {
		return false, fmt.Errorf("want yes or no, have %q", text)
	}
	return text == "yes", nil
}

func count(text string, least int) (int, error) {
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || n < least || n > maxSize {
		return 0, fmt.Errorf("want a number from %d to %d, have %q", least, maxSize, text)
	}
	return n, nil
}

func number(text string, low, high float64) (float64, error) {
	x, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(x) || x < low || x > high {
		return 0, fmt.Errorf("want a number from %v to %v, have %q", low, high, text)
	}
	return x, nil
}

func percent(text string) (float64, error) { return percentUpTo(100, text) }

func percentUpTo(most float64, text string) (float64, error) {
	digits, ok := strings.CutSuffix(text, "%")
	if !ok {
		return 0, fmt.Errorf("want a share like 20%%, have %q", text)
	}
	x, err := number(digits, 0, most)
	return x / 100, err
}

// maxSpan bounds every time in a scenario: a year.
const maxSpan = 8766 * time.Hour

func span(text string) (time.Duration, error) {
	if text == "0" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > maxSpan {
		return 0, fmt.Errorf("want a time like 250ms, have %q", text)
	}
	return d, nil
}
