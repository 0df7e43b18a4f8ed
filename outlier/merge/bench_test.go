package merge

import (
	"cmp"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/test/cputime"
)

// The full size needs some gigabytes of memory and half a minute to set up.
var full = flag.Bool("full", false, "benchmark the table with 10000 reporters x 1000 endpoints")

type size struct {
	reporters, endpoints int
	sick                 float64 // share of the endpoints; 0: a tenth
}

// fails says whether endpoint i is sick.
func (s size) fails(i int) bool { return float64(i) < float64(s.endpoints)*cmp.Or(s.sick, 0.1) }

func sizes() []size {
	if *full {
		return []size{{reporters: 10000, endpoints: 1000}}
	}
	return []size{{reporters: 100, endpoints: 100}, {reporters: 1000, endpoints: 1000}}
}

// population is a table full of cells, and what each reporter says next.
type population struct {
	*Table
	size    size
	reports []Report
	seq     uint64
	now     time.Duration
}

func populate(b *testing.B, s size) *population {
	b.Helper()
	p := &population{Table: NewTable(DefaultConfig(), 1), size: s}
	specs := make([]Endpoint, 0, s.endpoints)
	for i := range s.endpoints {
		specs = append(specs, Endpoint{Key: Key{"api", fmt.Sprintf("endpoint-%05d", i)}, Zone: fmt.Sprint("zone-", i%3)})
	}
	policy := DefaultPolicy()
	policy.Outlier.MaxOut = 0 // what is sick stays in excursion
	p.SetService("api", policy, specs, 0)
	for i := range s.reporters {
		id := fmt.Sprintf("reporter-%05d", i)
		r := Reporter{ID: id, Node: id, Zone: fmt.Sprint("zone-", i%3)}
		if err := p.Join(r, []string{"api"}, 0); err != nil {
			b.Fatal(err)
		}
	}
	cells := make([]Cell, s.endpoints)
	for i := range cells {
		cells[i] = Cell{Key: specs[i].Key, LastHard: -1, LastHardStart: -1}
	}
	for i := range s.reporters {
		p.reports = append(p.reports, Report{Reporter: fmt.Sprintf("reporter-%05d", i), Cells: cells})
	}
	for range min(3, s.reporters) {
		p.round()
	}
	return p
}

// round lets every reporter tell of every endpoint, of which some are sick.
// All reporters share their cells: what is measured is the table.
func (p *population) round() (accepted int) {
	p.seq++
	p.now += 2 * time.Second
	cells := p.reports[0].Cells
	for i := range cells {
		c := &cells[i]
		c.Counts.N += 10
		c.LastOK, c.LastOKStart = p.now, p.now-ms
		if p.size.fails(i) {
			c.Counts.Server += 3
			c.Score = 1
		}
	}
	for i := range p.reports {
		r := &p.reports[i]
		r.Seq, r.At, r.Received = p.seq, p.now, p.now
		accepted += p.Apply(*r, p.now).Accepted
		if i%100 == 99 {
			p.Step(p.now)
		}
	}
	p.Step(p.now)
	return accepted
}

// Apply, and a Step at a tick: a tenth of the endpoints is in excursion, and one
// reporter in a hundred has just told of all of them. Others are busy on most machines,
// so the best and the median of all are told, and the CPU time of the process.
func BenchmarkTable(b *testing.B) {
	for _, s := range sizes() {
		b.Run(fmt.Sprintf("%dx%d", s.reporters, s.endpoints), func(b *testing.B) {
			before := inUse()
			p := populate(b, s)
			after := inUse()
			open := 0
			for _, e := range p.endpoints {
				if e.fast.open {
					open++
				}
			}
			cells := p.reports[0].Cells
			var apply, step, cpu []time.Duration
			i := 0
			for b.Loop() {
				p.now += tick
				if i%len(p.reports) == 0 {
					p.seq++
					for j := range cells {
						cells[j].Counts.N += 10
						if s.fails(j) {
							cells[j].Counts.Server += 3
						}
					}
				}
				for range max(1, s.reporters/100) {
					r := &p.reports[i%len(p.reports)]
					r.Seq, r.At, r.Received = p.seq, p.now, p.now
					began := time.Now()
					if got := p.Apply(*r, p.now).Accepted; got != len(cells) {
						b.Fatalf("%d of %d cells were accepted", got, len(cells))
					}
					apply = append(apply, time.Since(began)/time.Duration(len(cells)))
					i++
				}
				began, before := time.Now(), cputime.Used()
				p.Step(p.now)
				step, cpu = append(step, time.Since(began)), append(cpu, cputime.Used()-before)
			}
			slices.Sort(apply)
			slices.Sort(step)
			slices.Sort(cpu)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(apply[0].Nanoseconds()), "apply-best-ns/entry")
			b.ReportMetric(float64(apply[len(apply)/2].Nanoseconds()), "apply-median-ns/entry")
			b.ReportMetric(float64(step[0].Microseconds())/1e3, "step-best-ms")
			b.ReportMetric(float64(step[len(step)/2].Microseconds())/1e3, "step-median-ms")
			b.ReportMetric(float64(cpu[0].Microseconds())/1e3, "step-best-cpu-ms")
			b.ReportMetric(float64(cpu[len(cpu)/2].Microseconds())/1e3, "step-median-cpu-ms")
			b.ReportMetric(float64(open), "excursions")
			b.ReportMetric(float64(after-before)/float64(s.reporters*s.endpoints), "B/cell")
		})
	}
	b.Run("endpoint", func(b *testing.B) {
		const n = 10_000
		before := inUse()
		p := populate(b, size{endpoints: n})
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(inUse()-before)/n, "B/endpoint")
		runtime.KeepAlive(p)
	})
}

// A Step at which a large part of a large group is over its threshold, and none may
// leave: the caps must not look at the whole group for each of them.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{1000, 2000, 4000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := populate(b, size{reporters: 4, endpoints: n, sick: 0.4})
			var took []time.Duration
			held := 0
			for b.Loop() {
				p.round()
				p.now += DefaultPolicy().PollWait // nobody answers
				began := time.Now()
				p.Step(p.now)
				took = append(took, time.Since(began))
				held = 0
				for _, e := range p.endpoints {
					if e.refusal.why == "cap" && e.refusal.until == p.now+fullFor {
						held++
					}
				}
			}
			slices.Sort(took)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(took[0].Microseconds())/1e3, "step-best-ms")
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1e3, "step-median-ms")
			b.ReportMetric(float64(held), "held")
		})
	}
}

// inUse is how much of the heap is.
func inUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A row of a thousand reporters, added up; the best of all is told beside the mean.
func BenchmarkRead(b *testing.B) {
	p := populate(b, size{reporters: 1000, endpoints: 10})
	e := p.endpoints[Key{"api", "endpoint-00000"}]
	if len(e.fast.active) != 1000 {
		b.Fatalf("%d reporters in the row", len(e.fast.active))
	}
	steps := e.fast.last.odds.Steps()
	var sink reading
	best := time.Hour
	for b.Loop() {
		began := time.Now()
		sink = p.read(e, &e.fast, steps, only{}, p.now)
		best = min(best, time.Since(began))
	}
	b.ReportMetric(float64(best.Nanoseconds()), "best-ns")
	if sink.reporters != 1000 {
		b.Fatal(sink)
	}
}
