package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/trial"
)

// fault is something that goes wrong and is mended again.
type fault struct {
	name, what string
	targets    []string      // instances that should be left
	suspect    string        // the caller that must convince nobody but itself
	hold       time.Duration // from its onset until it is mended
	begin, end func(*mesh) error

	origin origin
	// aims: what a quiet machine should show at 50 requests/s into an endpoint. The
	// limits that decide ok are ten times as long, so that a busy one passes.
	aimDetected, aimOff time.Duration
	aimAttempts         int // failed attempts in the whole fleet
	// lossless: not one request that may be repeated may fail.
	lossless bool
	// unseen: no fleet verdict is wanted.
	unseen bool
	// local: the verdict of each sidecar counts, there being no control plane.
	local bool
}

// origin is from where a fault's times count.
type origin int

const (
	firstFailed origin = iota // the first attempt that failed
	firstHung                 // the first attempt that was caught
	onset                     // the moment at which it began
)

func (o origin) String() string {
	return [...]string{"the first attempt that failed", "the first attempt that hung", "its beginning"}[o]
}

// recoveryAim is how long an endpoint should take to get its fair share back, patience
// how long that is waited for.
const (
	recoveryAim = 25 * time.Second
	patience    = recoveryAim + 5*time.Second
)

const slack = 10 // limits are so many times the aims

func set(behaviour fakeupstream.Fault, names ...string) func(*mesh) error {
	return func(m *mesh) error {
		for _, name := range names {
			if err := m.instance(name).application.Set(behaviour); err != nil {
				return err
			}
		}
		return nil
	}
}

// crash ends the application behind its sidecar, which stays.
func crash(names ...string) func(*mesh) error {
	return set(fakeupstream.Crash(), names...)
}

func heal(names ...string) func(*mesh) error { return set(fakeupstream.Fault{}, names...) }

// vanish ends application and sidecar at once, as the loss of a machine would.
func vanish(names ...string) func(*mesh) error {
	return func(m *mesh) error {
		for _, name := range names {
			m.instance(name).sidecar.kill()
		}
		return crash(names...)(m)
	}
}

func reappear(names ...string) func(*mesh) error {
	return func(m *mesh) error {
		if err := heal(names...)(m); err != nil {
			return err
		}
		for _, name := range names {
			if err := m.startInstance(m.instance(name)); err != nil {
				return err
			}
		}
		return nil
	}
}

// acts are the faults in the order in which they are shown. Those of one act
// overlap: each begins so long after the act does, on an endpoint of its own.
func acts() [][]staged {
	return [][]staged{
		{
			{0, fault{
				name: "crash", what: "api-1's application crashes behind its sidecar: listener closed, connections reset", targets: []string{"api-1"}, hold: 5 * time.Second,
				begin: crash("api-1"), end: heal("api-1"), origin: firstFailed,
				aimDetected: 100 * time.Millisecond, aimOff: 100 * time.Millisecond, aimAttempts: 10, lossless: true,
			}},
			{7 * time.Second, fault{
				name: "crash-host", what: "api-4's machine is lost: application and sidecar are gone", targets: []string{"api-4"}, hold: 5 * time.Second,
				begin: vanish("api-4"), end: reappear("api-4"), origin: firstFailed,
				aimDetected: 100 * time.Millisecond, aimOff: 100 * time.Millisecond, aimAttempts: 10, lossless: true,
			}},
			{14 * time.Second, fault{
				name: "hang", what: "api-2 accepts and never answers", targets: []string{"api-2"}, hold: 6 * time.Second,
				begin: set(fakeupstream.Hang(), "api-2"), end: heal("api-2"), origin: firstHung,
				aimDetected: 450 * time.Millisecond, aimOff: 450 * time.Millisecond, aimAttempts: 60,
			}},
			{22 * time.Second, fault{
				name: "listener-only", what: "api-5 takes no new connections, the old ones answer", targets: []string{"api-5"}, hold: 5 * time.Second,
				begin: set(fakeupstream.Deaf(), "api-5"), end: heal("api-5"), origin: onset,
				lossless: true, unseen: true,
			}},
			{29 * time.Second, fault{
				name: "errors-50", what: "api-3 answers every second request with 500", targets: []string{"api-3"}, hold: 6 * time.Second,
				begin: set(fakeupstream.Errors(0.5), "api-3"), end: heal("api-3"), origin: onset,
				aimDetected: 850 * time.Millisecond, aimOff: 950 * time.Millisecond, aimAttempts: 30,
			}},
			{37 * time.Second, fault{
				name: "errors-20", what: "api-6 answers every fifth request with 500", targets: []string{"api-6"}, hold: 10 * time.Second,
				begin: set(fakeupstream.Errors(0.2), "api-6"), end: heal("api-6"), origin: onset,
				aimDetected: 2900 * time.Millisecond, aimOff: 3000 * time.Millisecond, aimAttempts: 40,
			}},
		},
		{{0, fault{
			name: "broken-caller", what: "caller-5's network fails towards every endpoint: nobody else may believe it", suspect: "caller-5", hold: 6 * time.Second,
			begin:  func(m *mesh) error { m.caller("caller-5").network.cut(); return nil },
			end:    func(m *mesh) error { m.caller("caller-5").network.mend(); return nil },
			origin: onset, unseen: true,
		}}},
		{{0, fault{
			name: "zone-down", what: "zone b is lost: api-4, api-5 and api-6 at once", targets: []string{"api-4", "api-5", "api-6"}, hold: 5 * time.Second,
			begin: vanish("api-4", "api-5", "api-6"), end: reappear("api-4", "api-5", "api-6"), origin: firstFailed,
			aimDetected: 100 * time.Millisecond, aimOff: 150 * time.Millisecond, aimAttempts: 40, lossless: true,
		}}},
		{{0, fault{
			name: "control-plane", what: "the control plane is killed, api-2 crashes, the control plane comes back", targets: []string{"api-2"}, hold: 8 * time.Second,
			begin: func(m *mesh) error {
				m.control.kill()
				if err := crash("api-2")(m); err != nil {
					return err
				}
				return m.later(4*time.Second, m.startControl)
			},
			end: heal("api-2"), origin: firstFailed, local: true,
			aimDetected: 150 * time.Millisecond, aimOff: 200 * time.Millisecond, aimAttempts: 30, lossless: true,
		}}},
	}
}

// staged is a fault with its place in an act.
type staged struct {
	after time.Duration
	fault fault
}

// result is one line of the summary. Times are milliseconds; null where the fault
// has no such time, or it did not come about.
type result struct {
	Name               string   `json:"name"`
	DetectedMS         *float64 `json:"detected_ms"`
	FleetOffMS         *float64 `json:"fleet_off_ms"`
	FailedAttempts     int      `json:"failed_attempts"`
	FailedRequests     int      `json:"failed_requests"`     // of those that may be repeated
	FailedUnrepeatable int      `json:"failed_unrepeatable"` // of the others
	FalseEjections     int      `json:"false_ejections"`
	RecoveredMS        *float64 `json:"recovered_ms"`
	OK                 bool     `json:"ok"`

	AimDetectedMS *float64 `json:"aim_detected_ms"`
	AimOffMS      *float64 `json:"aim_fleet_off_ms"`
	AimAttempts   int      `json:"aim_failed_attempts"`
	Problems      []string `json:"problems,omitempty"` // why it is not ok

	began, mended, over time.Duration
	fault               fault
	from                origin // what the times count from
}

// lost is how many requests users lost.
func (r result) lost() int { return r.FailedRequests + r.FailedUnrepeatable }

// judge measures one fault in what the ledger has of its window.
func judge(f fault, began, mended, over time.Duration, l *ledger) result {
	r := result{Name: f.name, began: began, mended: mended, over: over, fault: f, AimAttempts: f.aimAttempts}
	if f.aimDetected > 0 {
		r.AimDetectedMS, r.AimOffMS = trial.MS(f.aimDetected), trial.MS(f.aimOff)
	}
	w := l.window(began, over)
	mine := func(a attempt) bool { return slices.Contains(f.targets, a.endpoint) || a.caller == f.suspect }
	t0, from := began, onset // so it stays where no attempt is as the fault's origin wants
	switch f.origin {
	case firstFailed:
		if at, ok := w.firstAttempt(func(a attempt) bool { return mine(a) && a.failed }); ok {
			t0, from = at, firstFailed
		}
	case firstHung:
		if at, ok := w.firstAttempt(func(a attempt) bool { return mine(a) && a.ended-a.at > hung }); ok {
			t0, from = at, firstHung
		}
	case onset:
	}
	r.from = from
	for _, a := range w.attempts {
		if mine(a) && a.failed {
			r.FailedAttempts++
		}
	}
	for _, q := range w.requests {
		switch {
		case !q.failed || !slices.Contains(f.targets, q.endpoint) && q.caller != f.suspect:
		case q.repeatable:
			r.FailedRequests++
		default:
			r.FailedUnrepeatable++
		}
	}
	r.times(f, t0, w)
	r.limits(f, w)
	return r
}

// hung is how long an attempt takes at least that is called hung.
const hung = 200 * time.Millisecond

// times fills in when the fault was noticed, left alone, and forgiven.
func (r *result) times(f fault, t0 time.Duration, w *ledger) {
	detected := time.Duration(0)
	all := true
	for _, target := range f.targets {
		at, ok := w.noticed(target, f.local, r.mended)
		all = all && ok
		detected = max(detected, at-t0)
	}
	if f.suspect != "" {
		b, ok := w.firstBelief(func(b belief) bool { return b.observer == f.suspect && out(b.state) })
		all, detected = ok, b.at-t0
	}
	if all {
		r.DetectedMS = trial.MS(detected)
	}
	if len(f.targets) == 0 {
		return
	}
	if !f.unseen {
		if at, ok := lastBefore(w.attempts, f.targets, t0, r.mended); ok {
			r.FleetOffMS = trial.MS(max(0, at-t0))
		}
	}
	recovered := time.Duration(0)
	for _, target := range f.targets {
		at, ok := fairAgain(w.attempts, target, instances, 0.9, r.mended)
		if !ok {
			return
		}
		recovered = max(recovered, at-r.mended)
	}
	r.RecoveredMS = trial.MS(recovered)
}

// limits decides whether the fault was handled: by counts, and by times ten
// times longer than the aims.
func (r *result) limits(f fault, w *ledger) {
	problem := func(p string) { r.Problems = append(r.Problems, p) }
	late := func(got *float64, aim time.Duration) bool {
		return aim > 0 && (got == nil || *got > slack*float64(aim.Milliseconds()))
	}
	if late(r.DetectedMS, f.aimDetected) {
		problem("not detected in time")
	}
	if late(r.FleetOffMS, f.aimOff) {
		problem("the fleet did not leave it in time")
	}
	if f.aimAttempts > 0 && r.FailedAttempts > slack*f.aimAttempts {
		problem("too many failed attempts")
	}
	if f.lossless && r.FailedRequests > 0 {
		problem("requests failed that could have been repeated")
	}
	if len(f.targets) > 0 && late(r.RecoveredMS, recoveryAim) {
		problem("no fair share again")
	}
	for _, b := range w.beliefs {
		if f.unseen && b.fleet && out(b.state) && b.rule == "hard" && (f.suspect != "" || slices.Contains(f.targets, b.endpoint)) {
			problem("a fleet verdict that should not be: " + b.reason)
			break
		}
	}
	if f.suspect != "" {
		for _, q := range w.requests {
			if q.failed && q.repeatable && q.caller != f.suspect {
				problem("another caller's request failed")
				break
			}
		}
	}
	r.OK = len(r.Problems) == 0
}

// unexplained gives what happened to endpoints and callers that had no fault to
// the fault that began last before it: ejections, and requests lost that could
// have been repeated. A suspension is no ejection: it rests on a request that
// really hung, as happens on a machine that is short of CPU, leaves no record,
// and ends with the first answer.
func unexplained(results []result, l *ledger) {
	all := l.window(0, 1<<62)
	for _, b := range all.beliefs {
		if b.state != outlier.Ejected.String() {
			continue
		}
		observer := b.observer
		if b.fleet {
			observer = "the fleet"
		}
		if r := blame(results, b.at, b.at, b.endpoint, b.observer); r != nil {
			r.FalseEjections++
			r.Problems = append(r.Problems, fmt.Sprintf("%s ejected without cause by %s, %s", b.endpoint, observer, b.rule))
			r.OK = false
		}
	}
	for _, q := range all.requests {
		if !q.failed || !q.repeatable {
			continue
		}
		if r := blame(results, q.at, q.ended, q.endpoint, q.caller); r != nil {
			r.FailedRequests++
			r.Problems = append(r.Problems, fmt.Sprintf("%s lost a request without cause: %s", q.caller, q.outcome))
			r.OK = false
		}
	}
}

// blame returns the fault that began last before at, unless a fault of that endpoint or
// that observer explains what went on from at to ended; then nil. What was under way when
// a fault began was ended by it.
func blame(results []result, at, ended time.Duration, endpoint, observer string) *result {
	var last *result
	for i := range results {
		r := &results[i]
		mine := slices.Contains(r.fault.targets, endpoint) || observer != "" && observer == r.fault.suspect
		if mine && ended >= r.began && at <= r.over {
			return nil
		}
		if at >= r.began && (last == nil || r.began > last.began) {
			last = r
		}
	}
	return last
}
