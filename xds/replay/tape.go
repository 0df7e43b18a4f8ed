package replay

import (
	"container/heap"
	"errors"
	"io"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/report"
)

const (
	// ahead is how far a tape looks into the future: a sidecar tells all that has
	// changed each ten seconds.
	ahead = 12 * time.Second
	// behind is for how long a tape remembers: evidence looks back half a minute.
	behind = 40 * time.Second
)

// entry is a frame of one of the files, by the table's clock.
type entry struct {
	report.Frame
	reporter merge.Reporter
}

// tape brings the frames of all files in the order of time. It knows the next ones
// before they come, which the stand-ins for those who were not asked need.
type tape struct {
	cursors cursors
	window  []entry // the next ones
	head    int     // of window

	views  map[view][]sight           // what a sidecar said of an endpoint, by time
	probes map[merge.Key][]*probeNews // results, by time
	swept  time.Duration
}

// view is one sidecar's view of one endpoint.
type view struct {
	reporter string
	key      merge.Key
}

// sight is what was told of an endpoint at one moment.
type sight struct {
	at          time.Duration
	incarnation uint64
	merge.Cell
}

// probeNews is a result in the record.
type probeNews struct {
	at       time.Duration // when it was told
	reporter string
	report.Probed
	used bool // it answers something
}

// cursor reads one file.
type cursor struct {
	file   io.Closer
	told   told // what is left out, because other files tell of it
	rec    *report.Recording
	next   entry
	before time.Duration // no frame of a file is earlier than the one before it
	epoch  time.Time     // of the table's clock
}

// read is the next frame that no other file has.
func (c *cursor) read() (report.Frame, report.RecordHeader, error) {
	for {
		f, err := c.rec.Next()
		header := c.rec.Header()
		if err != nil || !c.told.already(lifeOf(&header), c.epoch.Add(f.At)) {
			return f, header, err
		}
	}
}

// open begins to read all files.
func (r *Recordings) open() (*tape, error) {
	t := &tape{views: map[view][]sight{}, probes: map[merge.Key][]*probeNews{}}
	for i, f := range r.files {
		in, err := f.Open()
		if err != nil {
			return nil, errors.Join(err, t.close())
		}
		c := &cursor{file: in, told: r.told[i], epoch: r.epoch}
		if c.rec, err = report.OpenRecording(f.Name, in); err != nil {
			// Scan has said so. There is nothing in it.
			if err := in.Close(); err != nil {
				return nil, errors.Join(err, t.close())
			}
			continue
		}
		c.rec.Align(r.epoch)
		if err := t.advance(c); err != nil {
			return nil, errors.Join(err, t.close())
		}
	}
	return t, nil
}

func (t *tape) close() error {
	var err error
	for _, c := range t.cursors {
		err = errors.Join(err, c.file.Close())
	}
	t.cursors = nil
	return err
}

// advance reads a cursor's next frame and puts it into its place, or closes its file.
func (t *tape) advance(c *cursor) error {
	f, header, err := c.read()
	if err != nil { // the end, or where Scan has said that it breaks off
		return c.file.Close()
	}
	f.At = max(f.At, c.before)
	c.before = f.At
	c.next = entry{Frame: f, reporter: header.Reporter}
	heap.Push(&t.cursors, c)
	return nil
}

// fill makes sure that all frames until some time after now are in the window.
func (t *tape) fill(now time.Duration) error {
	for len(t.cursors) > 0 && t.cursors[0].next.At <= now+ahead {
		c := heap.Pop(&t.cursors).(*cursor)
		t.note(&c.next)
		t.window = append(t.window, c.next)
		if err := t.advance(c); err != nil {
			return errors.Join(err, t.close())
		}
	}
	return nil
}

// note makes a frame known to those who look ahead.
func (t *tape) note(e *entry) {
	if e.Message.Report != nil {
		for _, c := range e.Message.Report.Cells {
			t.see(e, c)
		}
	}
	for _, a := range e.Message.Polls {
		t.see(e, a.Cell)
	}
	for _, p := range e.Message.Probes {
		t.probes[p.Key] = append(t.probes[p.Key], &probeNews{at: e.At, reporter: e.reporter.ID, Probed: p})
	}
}

func (t *tape) see(e *entry, c merge.Cell) {
	v := view{e.reporter.ID, c.Key}
	if have := t.views[v]; e.State && len(have) > 0 && have[len(have)-1].incarnation == e.reporter.Incarnation {
		return // the segment before this one has told of it
	}
	t.views[v] = append(t.views[v], sight{e.At, e.reporter.Incarnation, c})
}

// peek is when the next frame is; false: there is none.
func (t *tape) peek() (time.Duration, bool) {
	switch {
	case t.head < len(t.window):
		return t.window[t.head].At, true
	case len(t.cursors) > 0:
		return t.cursors[0].next.At, true
	}
	return 0, false
}

// take is the next frame. It must be in the window.
func (t *tape) take() entry {
	e := t.window[t.head]
	t.window[t.head] = entry{}
	if t.head++; t.head == len(t.window) {
		t.window, t.head = t.window[:0], 0
	}
	return e
}

// sweep forgets what nobody looks back at any more.
func (t *tape) sweep(now time.Duration) {
	if now < t.swept+behind {
		return
	}
	t.swept = now
	for v, all := range t.views {
		n := 0
		// The last one before that time stays: it says what was known then.
		for n+1 < len(all) && all[n+1].at < now-behind {
			n++
		}
		t.views[v] = all[n:]
	}
	for k, all := range t.probes {
		n := 0
		for n < len(all) && all[n].at < now-behind {
			n++
		}
		if t.probes[k] = all[n:]; n == len(all) {
			delete(t.probes, k)
		}
	}
}

// around are the reports of one life between which an instant lies; nil where there
// is none.
func (t *tape) around(v view, incarnation uint64, at time.Duration) (before, after *sight) {
	all := t.views[v]
	for i := range all {
		s := &all[i]
		switch {
		case s.incarnation != incarnation:
		case s.at <= at:
			before = s
		case after == nil:
			after = s
		}
	}
	return before, after
}

// atOnce is how soon a report must follow an instant for its counts to be those of the
// instant: an answer would have taken as long.
const atOnce = 10 * time.Millisecond

// counts is what a sidecar must have counted of an endpoint by an instant: what it had
// told, and of what it told next a part in proportion to the time.
func (t *tape) counts(v view, incarnation uint64, at time.Duration) (outlier.Counts, bool) {
	before, after := t.around(v, incarnation, at)
	if before == nil {
		return outlier.Counts{}, false
	}
	switch {
	case after == nil:
		return before.Counts, true
	case after.at-at <= atOnce:
		return after.Counts, true
	}
	d := after.Counts.Sub(before.Counts)
	part := float64(at-before.at) / float64(after.at-before.at)
	c := before.Counts
	for _, f := range []struct {
		count *uint32
		more  uint32
	}{
		{&c.Conn, d.Conn}, {&c.Timeout, d.Timeout}, {&c.Server, d.Server},
		{&c.Over, d.Over}, {&c.Cens, d.Cens}, {&c.N90, d.N90}, {&c.N99, d.N99},
	} {
		*f.count += uint32(part*float64(f.more) + 0.5)
	}
	c.N += c.K() - before.Counts.K() + uint32(part*float64(d.N-d.K())+0.5)
	return c, true
}

// cursors is a heap, the one with the earliest frame first.
type cursors []*cursor

func (c cursors) Len() int { return len(c) }
func (c cursors) Less(i, j int) bool {
	a, b := &c[i].next, &c[j].next
	if a.At != b.At {
		return a.At < b.At
	}
	return a.reporter.ID < b.reporter.ID
}
func (c cursors) Swap(i, j int) { c[i], c[j] = c[j], c[i] }
func (c *cursors) Push(x any)   { *c = append(*c, x.(*cursor)) }
func (c *cursors) Pop() any {
	old := *c
	x := old[len(old)-1]
	old[len(old)-1] = nil
	*c = old[:len(old)-1]
	return x
}
