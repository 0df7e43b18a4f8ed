package report

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/test/cputime"
	"github.com/overhear-mesh/overhear/xds/report/cadence"
	"github.com/overhear-mesh/overhear/xds/reportpb"
)

// The full size needs a gigabyte of memory.
var full = flag.Bool("full", false, "benchmark the ingest with 10000 reporters")

const (
	eachHas  = 20                   // endpoints of a service, each of which is a pair with each of its callers
	callers  = 200                  // of a service
	pairRate = 1.0                  // requests a second
	baseRate = 0.01                 // of which fail
	slice    = 5 * time.Millisecond // of virtual time
)

// fleet is a table and its reporters in virtual time. Reporters have detectors and keep
// the cadence of sidecars; what they say is encoded, and comes in at once.
type fleet struct {
	now     time.Duration
	rng     *rand.Rand
	table   *merge.Table
	callers []*caller
	byID    map[string]*caller
	inbox   []letter
	stepAt  time.Duration
	urgent  bool
	crashed merge.Key

	cpu             time.Duration // of taking in, and of Step
	messages, cells int
	ejected         []merge.Key
}

// letter is what has been sent.
type letter struct {
	from *caller
	data []byte
}

// caller is one reporter.
type caller struct {
	id, service string
	detector    *outlier.Detector
	next        time.Duration
	schedule    cadence.Schedule
	topic       cadence.Topic
	memory      cadence.Memory
	asked       cadence.Questions
	probes      []Probed
	names       *names
	seq         uint64

	decoder *decoder // at the control plane
}

func newFleet(b *testing.B, reporters int) *fleet {
	b.Helper()
	f := &fleet{rng: rand.New(rand.NewPCG(1, 2)), table: merge.NewTable(merge.DefaultConfig(), 1), byID: map[string]*caller{}}
	sent := map[string]bool{}
	for i := range max(1, reporters/callers) {
		service := fmt.Sprintf("service-%02d", i)
		sent[service] = true
		var specs []merge.Endpoint
		var members []outlier.Member
		for j := range eachHas {
			id := fmt.Sprintf("%s-%02d", service, j)
			specs = append(specs, merge.Endpoint{Key: merge.Key{Service: service, Instance: id}, Zone: "a"})
			members = append(members, outlier.Member{ID: id, Zone: "a", Weight: 1})
		}
		f.table.SetService(service, merge.DefaultPolicy(), specs, 0)
		for range callers {
			f.join(b, service, members, sent)
		}
	}
	return f
}

func (f *fleet) join(b *testing.B, service string, members []outlier.Member, sent map[string]bool) {
	b.Helper()
	cfg := outlier.DefaultConfig()
	cfg.MaxOut = 0 // it tells, and takes nobody out
	c := &caller{
		id: fmt.Sprintf("caller-%05d", len(f.callers)), service: service,
		detector: outlier.New(cfg, f.rng), schedule: cadence.NewSchedule(cadence.DefaultConfig()),
		asked: cadence.NewQuestions(), names: newNames(),
	}
	c.decoder = &decoder{authority: registry{sent: sent}, node: c.id, addr: netip.MustParseAddr("10.0.0.1")}
	c.detector.SetMembers(members, 0)
	c.schedule.Begin(c.id, 0)
	c.schedule.Wake(0)
	if err := f.table.Join(merge.Reporter{ID: c.id, Incarnation: 1, Principal: c.id, Node: c.id, Zone: "a"}, []string{service}, 0); err != nil {
		b.Fatal(err)
	}
	f.callers, f.byID[c.id] = append(f.callers, c), c
}

// run lets time pass.
func (f *fleet) run(d time.Duration) {
	for end := f.now + d; f.now < end; {
		f.now += slice
		f.call()
		for _, c := range f.callers {
			if f.now >= c.next {
				c.step(f.now)
			}
			if c.schedule.Due(f.now) {
				f.inbox = c.tell(f.now, f.inbox)
			}
		}
		began := cputime.Used()
		result, stepped := f.takeIn()
		f.cpu += cputime.Used() - began
		if stepped {
			f.obey(&result)
		}
	}
}

// call makes the requests of a slice.
func (f *fleet) call() {
	pairs := float64(len(f.callers) * eachHas)
	for range int(pairs * pairRate * slice.Seconds()) {
		c := f.callers[f.rng.IntN(len(f.callers))]
		id := fmt.Sprintf("%s-%02d", c.service, f.rng.IntN(eachHas))
		out := outlier.Outcome{Class: outlier.OK, Now: f.now}
		switch {
		case f.crashed == merge.Key{Service: c.service, Instance: id}:
			out.Class, out.Level = outlier.Conn, outlier.LevelConnect
		case f.rng.Float64() < baseRate:
			out.Class = outlier.Server
		}
		e := c.detector.Endpoint(id)
		a := e.Start(f.now-2*time.Millisecond, true)
		e.Headers(&a, f.now)
		if e.End(&a, out) {
			c.step(f.now)
		}
	}
}

func (c *caller) step(now time.Duration) {
	r := c.detector.Step(now)
	for _, p := range r.Probes {
		c.detector.Probed(p.ID, outlier.LevelConnect, outlier.ProbeOK, now, now)
	}
	c.next = r.Next
	c.schedule.Hear(&c.topic, r.Urgency, now)
}

// tell builds what there is to say.
func (c *caller) tell(now time.Duration, inbox []letter) []letter {
	turn := c.schedule.Turn(now)
	asked := c.asked.Take(&turn)
	m := Message{Probes: c.probes}
	c.probes = nil
	var told merge.Report
	if due, name := turn.Due(&c.topic, asked.Of(c.service)); due {
		seen := cadence.Observe(c.detector, c.service, asked.Polls(c.service), now)
		if name {
			for _, e := range seen.Evidence {
				m.Known = append(m.Known, merge.Key{Service: c.service, Instance: e.ID})
			}
		}
		m.Polls = seen.Answers
		c.memory.Weigh(&turn, &c.topic, &seen, &asked, &told)
		turn.Asked(&c.topic)
	}
	if turn.Tell {
		m.Report = &told
		for _, cell := range told.Cells {
			c.memory.Sent(cell, now)
		}
	}
	turn.Answers = len(m.Probes)+len(m.Polls) > 0
	c.schedule.End(&turn)
	e := encoder{names: c.names, seq: &c.seq}
	for _, up := range e.encode(m, now) {
		data, err := proto.Marshal(up)
		if err != nil {
			panic(err) // of our own making
		}
		inbox = append(inbox, letter{c, data})
	}
	return inbox
}

// takeIn is what the control plane does with what has come.
func (f *fleet) takeIn() (r merge.Result, stepped bool) {
	for _, l := range f.inbox {
		var up reportpb.Up
		if err := proto.Unmarshal(l.data, &up); err != nil {
			panic(err)
		}
		f.messages++
		out := l.from.decoder.decode(&up, f.now)
		for _, p := range out.probes {
			f.table.Probed(p.ID, l.from.id, p.Level, p.Result, p.Start, p.End, f.now)
			f.urgent = true
		}
		for _, a := range out.polls {
			a.Reporter = l.from.id
			f.table.Polled(a, f.now)
			f.urgent = true
		}
		if out.report != nil {
			out.report.Reporter, out.report.Incarnation = l.from.id, 1
			done := f.table.Apply(*out.report, f.now)
			f.cells += done.Accepted
			f.urgent = f.urgent || done.Urgent
		}
	}
	f.inbox = f.inbox[:0]
	if !f.urgent && f.now < f.stepAt {
		return r, false
	}
	r = f.table.Step(f.now)
	f.urgent, f.stepAt = false, r.Next
	return r, true
}

// obey carries out what the table wants; a probe takes until the next slice.
func (f *fleet) obey(r *merge.Result) {
	for _, c := range r.Changes {
		if c.Refused == "" && c.To == outlier.Ejected {
			f.ejected = append(f.ejected, c.Verdict.Key)
		}
	}
	for _, p := range r.Orders {
		c := f.byID[p.Reporter]
		result := outlier.ProbeOK
		if p.Key == f.crashed {
			result = outlier.Refused
		}
		c.probes = append(c.probes, Probed{ID: p.ID, Key: p.Key, Level: p.Level, Result: result, Start: f.now, End: f.now + slice, Epoch: p.Epoch})
		c.schedule.Wake(f.now)
	}
	for _, p := range r.Polls {
		for _, id := range p.Reporters {
			f.byID[id].asked.Poll(p)
			f.byID[id].schedule.Wake(f.now)
		}
	}
	for _, w := range r.Watches {
		for _, id := range w.Reporters {
			f.byID[id].asked.Watch(w.Key, f.now+w.For)
			f.byID[id].schedule.Watch(f.now + w.For)
		}
	}
}

// excursions is the share of pairs that a reporter is suspicious of.
func (f *fleet) excursions() float64 {
	n := 0
	for _, c := range f.callers {
		for _, e := range c.detector.Evidence(f.now) {
			if e.Excursion {
				n++
			}
		}
	}
	return float64(n) / float64(len(f.callers)*eachHas)
}

// A second of a fleet at a base error rate of one per cent, with the detectors and the
// cadence of sidecars: what decoding, Apply and Step take of a core, without gRPC; and
// then a crash: how long until it is ejected, in virtual time, and the CPU time that the
// control plane used until then.
//
//	go test ./xds/report -run '^$' -bench Fleet -benchtime 20x -full
func BenchmarkFleet(b *testing.B) {
	reporters := 1000
	if *full {
		reporters = 10_000
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // most of the garbage is the reporters'
	f := newFleet(b, reporters)
	f.run(11 * time.Second) // all have sent a summary
	f.cpu, f.messages, f.cells, f.ejected = 0, 0, 0, nil
	n := 0
	for b.Loop() {
		f.run(time.Second)
		n++
	}
	cpu, messages, cells, suspected, early := f.cpu, f.messages, f.cells, f.excursions(), len(f.ejected)
	f.cpu, f.crashed = 0, merge.Key{Service: "service-00", Instance: "service-00-00"}
	began := f.now
	for !slices.Contains(f.ejected, f.crashed) {
		if f.now > began+10*time.Second {
			b.Fatal("the crash has not been found in ten seconds")
		}
		f.run(slice)
	}
	each := float64(n)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(100*cpu.Seconds()/each, "core-%")
	b.ReportMetric(float64(messages)/each, "messages/s")
	b.ReportMetric(float64(cells)/each, "cells/s")
	b.ReportMetric(100*suspected, "pairs-in-excursion-%")
	b.ReportMetric(float64(early), "false-ejections")
	b.ReportMetric(float64((f.now - began).Milliseconds()), "crash-verdict-ms")
	b.ReportMetric(f.cpu.Seconds()*1e3, "crash-cpu-ms")
}
