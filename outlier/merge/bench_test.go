package merge

import (
	"flag"
	"fmt"
	"runtime"
	"testing"
	"time"
)

// The full size needs some gigabytes of memory and half a minute to set up.
var full = flag.Bool("full", false, "benchmark the table with 10000 reporters x 1000 endpoints")

type size struct{ reporters, endpoints int }

func sizes() []size {
	if *full {
		return []size{{10000, 1000}}
	}
	return []size{{100, 100}, {1000, 1000}}
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
	for range 3 {
		p.round()
	}
	return p
}

// round lets every reporter tell of every endpoint, of which one in ten is sick.
// All reporters share their cells: what is measured is the table.
func (p *population) round() (accepted int) {
	p.seq++
	p.now += 2 * time.Second
	cells := p.reports[0].Cells
	for i := range cells {
		c := &cells[i]
		c.Counts.N += 10
		c.LastOK, c.LastOKStart = p.now, p.now-ms
		if i%10 == 0 {
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

func BenchmarkApply(b *testing.B) {
	for _, s := range sizes() {
		b.Run(fmt.Sprintf("%dx%d", s.reporters, s.endpoints), func(b *testing.B) {
			p := populate(b, s)
			cells := p.reports[0].Cells
			entries, i := 0, 0
			p.now += time.Second
			b.ReportAllocs()
			for b.Loop() {
				if i%max(1, len(p.reports)/100) == 0 {
					b.StopTimer()
					p.now += tick
					p.Step(p.now)
					if i%len(p.reports) == 0 {
						p.seq++
						for j := range cells {
							cells[j].Counts.N += 10
						}
					}
					b.StartTimer()
				}
				r := &p.reports[i%len(p.reports)]
				r.Seq, r.At, r.Received = p.seq, p.now, p.now
				entries += p.Apply(*r, p.now).Accepted
				i++
			}
			if entries == 0 {
				b.Fatal("nothing was accepted")
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(entries), "ns/entry")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// A Step at a tick: a tenth of the endpoints is in excursion, and one reporter in
// a hundred has just told of all of them.
func BenchmarkStep(b *testing.B) {
	for _, s := range sizes() {
		b.Run(fmt.Sprintf("%dx%d", s.reporters, s.endpoints), func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			p := populate(b, s)
			runtime.GC()
			runtime.ReadMemStats(&after)
			open := 0
			for _, e := range p.endpoints {
				if e.fast.open {
					open++
				}
			}
			cells := p.reports[0].Cells
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				p.now += tick
				if i%len(p.reports) == 0 {
					p.seq++
					for j := range cells {
						cells[j].Counts.N += 10
						if j%10 == 0 {
							cells[j].Counts.Server += 3
						}
					}
				}
				for range max(1, s.reporters/100) {
					r := &p.reports[i%len(p.reports)]
					r.Seq, r.At, r.Received = p.seq, p.now, p.now
					p.Apply(*r, p.now)
					i++
				}
				b.StartTimer()
				p.Step(p.now)
			}
			b.ReportMetric(float64(open), "excursions")
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(s.reporters*s.endpoints), "B/cell")
		})
	}
}

// A row of a thousand reporters, added up.
func BenchmarkRead(b *testing.B) {
	p := populate(b, size{1000, 10})
	e := p.endpoints[Key{"api", "endpoint-00000"}]
	if len(e.fast.active) != 1000 {
		b.Fatalf("%d reporters in the row", len(e.fast.active))
	}
	steps := e.fast.last.odds.Steps()
	var sink reading
	for b.Loop() {
		sink = p.read(e, &e.fast, steps, only{}, p.now)
	}
	if sink.reporters != 1000 {
		b.Fatal(sink)
	}
}
