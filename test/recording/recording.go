// Package recording writes recordings of a fleet of sidecars that count what a test
// says: the same bytes at each run, without a mesh behind them.
package recording

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/report"
)

const (
	tick    = 50 * time.Millisecond
	urgent  = 250 * time.Millisecond // between reports of a sidecar that sees failures
	summary = 10 * time.Second       // and else
	// excursion is how long failures are worth an urgent report.
	excursion = 2 * time.Second
)

// Fleet is who records what. Endpoints are api/api-1 and so on, sidecars caller-1 and
// so on, on a machine each, in zones a and b in turn.
type Fleet struct {
	Sidecars, Endpoints int
	Start               time.Time
	Length              time.Duration
	// Rate is attempts per second of each sidecar on each endpoint.
	Rate float64
	// Fails is the share of attempts that fail; nil: none.
	Fails func(sidecar, endpoint int, at time.Duration) float64
	// Traffic is the share of its usual traffic that an endpoint gets; nil: all of it.
	Traffic func(endpoint int, at time.Duration) float64
	// Held are changes of belief, which all sidecars learn of.
	Held []report.HeldChange
	// Probed are results that a sidecar tells, by its number.
	Probed map[int][]report.Probed
	// Shares are what a sidecar tells of test requests, by its number.
	Shares map[int][]Share
	// MaxSize of one file, of which Files are kept; 0: one file of any size.
	MaxSize int64
	Files   int
}

// Share is what a sidecar told of test requests, when.
type Share struct {
	At time.Duration
	report.Probation
}

// Key is the endpoint of that number, from 1.
func Key(endpoint int) merge.Key {
	return merge.Key{Service: "api", Instance: fmt.Sprintf("api-%d", endpoint)}
}

// Write writes one file for each sidecar into a directory, or some if they rotate, and
// returns their paths.
func (f Fleet) Write(dir string) ([]string, error) {
	var paths []string
	for i := 1; i <= f.Sidecars; i++ {
		path := filepath.Join(dir, fmt.Sprintf("caller-%d.rec", i))
		if err := f.sidecar(i, path); err != nil {
			return nil, err
		}
		all, err := filepath.Glob(path + "*")
		if err != nil {
			return nil, err
		}
		paths = append(paths, all...)
	}
	return paths, nil
}

// pair is what one sidecar has counted of one endpoint.
type pair struct {
	n, k       float64
	told       outlier.Counts
	ok         time.Duration // newest success
	history    []merge.Point
	lastFailed time.Duration
}

func (p *pair) counts() outlier.Counts { return outlier.Counts{N: uint32(p.n), Server: uint32(p.k)} }

func (f Fleet) sidecar(i int, path string) error {
	rec, err := report.NewRecorder(report.RecorderConfig{Path: path, MaxSize: cmp.Or(f.MaxSize, 1<<30), Files: max(f.Files, 1), Started: f.Start})
	if err != nil {
		return err
	}
	rec.Hello(report.Hello{
		Node: fmt.Sprintf("caller-%d", i), Zone: string(rune('a' + (i-1)%2)), Labels: map[string]string{"node": fmt.Sprintf("host-%d", i)},
	}, uint64(f.Start.UnixMilli()))
	first := report.Message{Report: &merge.Report{}}
	pairs := make([]pair, f.Endpoints)
	for e := range pairs {
		first.Known = append(first.Known, Key(e+1))
		pairs[e] = pair{ok: outlier.Never, lastFailed: -excursion}
	}
	rec.Message(first, 0)
	held, probed, shares := f.Held, f.Probed[i], f.Shares[i]
	phase := time.Duration(i) * summary / time.Duration(f.Sidecars+1)
	reported := time.Duration(0)
	for at := tick; at <= f.Length; at += tick {
		bad := false
		for e := range pairs {
			bad = f.count(&pairs[e], i, e+1, at) || bad
		}
		var m report.Message
		all := (at-phase)%summary < tick && at >= phase
		if all || bad && at-reported >= urgent {
			m.Report = &merge.Report{}
			reported = at
			for e := range pairs {
				pairs[e].tell(m.Report, Key(e+1), at, all)
			}
		}
		for ; len(held) > 0 && held[0].At <= at; held = held[1:] {
			rec.Held(held[0])
			m.Known = []merge.Key{held[0].Key} // something to go with
		}
		for ; len(probed) > 0 && probed[0].End <= at; probed = probed[1:] {
			m.Probes = append(m.Probes, probed[0])
		}
		for ; len(shares) > 0 && shares[0].At <= at; shares = shares[1:] {
			m.Probations = append(m.Probations, shares[0].Probation)
		}
		rec.Message(m, at)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	return rec.Run(ended)
}

// count makes the attempts of one tick; it says whether there are failures to tell of.
func (f Fleet) count(p *pair, sidecar, endpoint int, at time.Duration) bool {
	attempts := f.Rate * tick.Seconds()
	if f.Traffic != nil {
		attempts *= f.Traffic(endpoint, at)
	}
	fails := 0.0
	if f.Fails != nil {
		fails = f.Fails(sidecar, endpoint, at)
	}
	before := p.counts()
	p.n += attempts
	p.k += float64(p.counts().N-before.N) * fails // never more failures than attempts
	d := p.counts().Sub(before)
	if d.N > d.K() {
		p.ok = at
	}
	if d.K() > 0 {
		p.lastFailed = at
	}
	if at%time.Second == 0 {
		c := p.counts()
		p.history = append(p.history, merge.Point{At: at, N: c.N, K: c.K()})
		p.history = p.history[max(0, len(p.history)-3):]
	}
	return at-p.lastFailed < excursion
}

// tell adds what there is to tell.
func (p *pair) tell(r *merge.Report, k merge.Key, at time.Duration, all bool) {
	c := p.counts()
	bad := at-p.lastFailed < excursion
	if !bad && !all || c == p.told {
		return
	}
	p.told = c
	cell := merge.Cell{Key: k, Counts: c, LastOK: p.ok, LastOKStart: max(outlier.Never, p.ok-2*time.Millisecond), LastHard: outlier.Never, LastHardStart: outlier.Never}
	if bad {
		cell.Score, cell.History = 1000, append([]merge.Point(nil), p.history...)
	}
	r.Cells = append(r.Cells, cell)
}
