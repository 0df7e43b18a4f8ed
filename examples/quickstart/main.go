// Command quickstart shows a whole Overhear mesh at work: one control plane, six
// instances of a service in two zones and five callers, a sidecar beside each of
// them, steady traffic, and then everything that goes wrong in real life.
//
//	go run ./examples/quickstart                 all faults, about two minutes
//	go run ./examples/quickstart -fault crash    one of them
//	go run ./examples/quickstart -fault crash -rate 300 -repeat 10
//	                                             ten times over: median and p95
//	go run ./examples/quickstart -stay           and keep running, to look around
//
// The control plane and the sidecars of the instances are processes of their own,
// built from this checkout. The five callers' sidecars are the same code inside
// this process, so that the network of one of them can be broken; they talk over
// real sockets. The applications are in this process too. Nothing leaves
// 127.0.0.1.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/overhear-mesh/overhear/test/trial"
)

type options struct {
	faults []string // empty: all
	rate   float64
	repeat int
	stay   bool
	json   bool
}

func main() {
	var names []string
	for _, act := range acts() {
		for _, s := range act {
			names = append(names, s.fault.name)
		}
	}
	var o options
	trial.Flag(names, &o.faults)
	flag.Float64Var(&o.rate, "rate", 300, "requests a second of all callers together; a sixth goes into each endpoint")
	flag.IntVar(&o.repeat, "repeat", 1, "how often to show it; more than once prints median and p95")
	flag.BoolVar(&o.stay, "stay", false, "keep the mesh running at the end, until interrupted")
	flag.BoolVar(&o.json, "json", false, "print the summary as one JSON object, and nothing else on standard output")
	flag.Parse()
	if o.rate < 1 || o.rate > 20000 || o.repeat < 1 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "quickstart: want -rate from 1 to 20000, -repeat from 1, and no other arguments")
		os.Exit(2)
	}
	trial.Main("quickstart", func(ctx context.Context) (bool, error) { return run(ctx, o, os.Stdout, os.Stderr) })
}

func run(ctx context.Context, o options, stdout, stderr io.Writer) (ok bool, err error) {
	timeline := stdout
	if o.json {
		timeline = stderr
	}
	var all show
	for i := range o.repeat {
		if err := all.run(ctx, o, i == o.repeat-1, newNarrator(timeline)); err != nil {
			return false, err
		}
	}
	return all.summarise(o, stdout)
}

// show is what has been shown so far.
type show struct {
	results               []result
	sent, failed, skipped int64 // requests of the users
}

// run shows the faults once, in a mesh of its own: an endpoint's record of earlier
// faults lengthens its way back. last says that the mesh may stay.
func (s *show) run(ctx context.Context, o options, last bool, story *narrator) error {
	dir, err := os.MkdirTemp("", "overhear-quickstart-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	story.line("building the sidecar and the control plane, starting 1 control plane, %d instances, %d callers …", instances, callers)

	meshCtx, endMesh := context.WithCancel(ctx)
	defer endMesh()
	l := &ledger{}
	m, err := startMesh(meshCtx, dir, o.rate, l, story)
	if err != nil {
		return err
	}
	defer m.stop()
	defer endMesh() // before m.stop: the callers end with it
	story.begin(m.started)

	usersCtx, endUsers := context.WithCancel(ctx)
	var users sync.WaitGroup
	for _, c := range m.callers {
		users.Go(func() { c.user.run(usersCtx) })
	}
	defer func() {
		endUsers()
		users.Wait()
		for _, c := range m.callers {
			s.sent += c.user.sent.Load()
			s.failed += c.user.failed.Load()
			s.skipped += c.user.skipped
		}
	}()
	story.line("control plane at http://%s, %d requests/s over %d callers", m.http, int(o.rate), callers)

	// The detector learns what is normal before anything goes wrong.
	if err := trial.Sleep(ctx, 2*time.Second); err != nil {
		return err
	}
	var results []result
	for _, act := range acts() {
		got, err := m.play(ctx, act, o.faults, story)
		if err != nil {
			return err
		}
		results = append(results, got...)
	}
	unexplained(results, l)
	s.results = append(s.results, results...)
	if o.stay && last {
		story.line("the mesh keeps running: try `controlplane status --address %s`; interrupt to end", m.http)
		for i, c := range m.callers {
			story.line("  caller-%d: curl http://%s/", i+1, c.sidecar.Addr("api"))
		}
		<-ctx.Done()
	}
	return nil
}

// play shows the faults of one act, or of them those that are wanted.
func (m *mesh) play(ctx context.Context, act []staged, wanted []string, story *narrator) ([]result, error) {
	var wg sync.WaitGroup
	results := make([]result, len(act))
	errs := make([]error, len(act))
	for i, s := range act {
		if len(wanted) > 0 && !slices.Contains(wanted, s.fault.name) {
			continue
		}
		after := s.after
		if len(wanted) == 1 {
			after = 0
		}
		wg.Go(func() {
			if errs[i] = trial.Sleep(ctx, after); errs[i] == nil {
				results[i], errs[i] = m.show(ctx, s.fault, story)
			}
		})
	}
	wg.Wait()
	results = slices.DeleteFunc(results, func(r result) bool { return r.Name == "" })
	return results, errors.Join(errs...)
}

// show lets one fault happen, mends it and waits until all is well again.
func (m *mesh) show(ctx context.Context, f fault, story *narrator) (result, error) {
	began := time.Since(m.started)
	story.opens(f, began)
	if err := f.begin(m); err != nil {
		return result{}, fmt.Errorf("%s: %w", f.name, err)
	}
	if err := trial.Sleep(ctx, f.hold); err != nil {
		return result{}, err
	}
	if err := f.end(m); err != nil {
		return result{}, fmt.Errorf("%s: %w", f.name, err)
	}
	mended := time.Since(m.started)
	story.mends(f, mended)
	var r result
	for {
		if err := trial.Sleep(ctx, 250*time.Millisecond); err != nil {
			return result{}, err
		}
		select {
		case err := <-m.failure:
			return result{}, err
		default:
		}
		now := time.Since(m.started)
		r = judge(f, began, mended, now, m.ledger)
		// A second after a fault that leaves nothing to recover, late evidence is in.
		settled := now-mended > 2*time.Second
		if settled && (len(f.targets) == 0 || r.RecoveredMS != nil) || now-mended > patience {
			break
		}
	}
	story.closes(r)
	if !r.OK {
		m.explain(r, story)
	}
	return r, nil
}

// explain tells, of a fault that was not handled, what each caller tried and changed
// before it was mended, and what it believes of its endpoints now.
func (m *mesh) explain(r result, story *narrator) {
	w := m.ledger.window(r.began, r.mended)
	for _, c := range m.callers {
		n, last := 0, attempt{}
		for _, a := range w.attempts {
			if a.caller == c.name && a.failed && slices.Contains(r.fault.targets, a.endpoint) {
				n, last = n+1, a
			}
		}
		if n > 0 {
			story.line("   %s: %d attempts on it failed, the last on %s (%s), begun after %d ms", c.name, n, last.endpoint, last.class, (last.at - r.began).Milliseconds())
		}
	}
	for _, b := range w.beliefs {
		if !b.fleet {
			story.line("   %s: %s %s, rule %s, after %d ms", b.observer, b.endpoint, b.state, b.rule, (b.at - r.began).Milliseconds())
		}
	}
	for _, c := range m.callers {
		for _, e := range endpointsOf(c.sidecar) {
			if slices.Contains(r.fault.targets, e.ID) {
				story.line("   %s holds %s as %s, share %.2f; told %s by %s, epoch %d; last change of its own: %s to %s, %s",
					c.name, e.ID, e.State, e.Share, e.Verdict.State, e.Verdict.Rule, e.Verdict.Epoch, e.Change.From, e.Change.To, e.Change.Rule)
			}
		}
	}
}

func (m *mesh) caller(name string) *caller {
	for _, c := range m.callers {
		if c.name == name {
			return c
		}
	}
	panic("no caller " + name) // a fault's definition is wrong
}

// later does something after a while, as part of the mesh's life.
func (m *mesh) later(after time.Duration, do func() error) error {
	m.running.Go(func() {
		if trial.Sleep(m.ctx, after) != nil {
			return
		}
		if err := do(); err != nil {
			m.failure <- err
		}
	})
	return nil
}

func (s *show) summarise(o options, w io.Writer) (bool, error) {
	ok := len(s.results) > 0
	for _, r := range s.results {
		ok = ok && r.OK
	}
	if o.json {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return ok, enc.Encode(struct {
			Faults []result `json:"faults"`
		}{s.results})
	}
	return ok, printSummary(w, o, s.results, s.sent, s.failed, s.skipped)
}
