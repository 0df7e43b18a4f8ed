package replay

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/report"
)

// headStart is what the table's clock shows when the first sidecar begins. An instant
// below zero would mean never.
const headStart = time.Hour

// File is one recording. It is read once by Scan and once by each Replay.
type File struct {
	Name string
	Open func() (io.ReadCloser, error)
}

// Problem is a place from which a file could not be read on. All before it counts.
type Problem struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"`
	Text   string `json:"text"`
	// Damaged: not merely the end that a crash leaves.
	Damaged bool `json:"damaged"`
}

// Sidecar is one of those who recorded.
type Sidecar struct {
	ID       string    `json:"id"`
	Zone     string    `json:"zone,omitempty"`
	Domain   string    `json:"domain"` // fault domain
	Lives    int       `json:"lives"`  // times that it was started
	Messages int       `json:"messages"`
	Lost     uint64    `json:"lost"` // messages that its disk did not take
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`

	lives    map[uint64]uint64 // lost, by incarnation
	services map[string]bool
}

// Recordings is what a first look at some files has found. It may be replayed any
// number of times, also by several goroutines.
type Recordings struct {
	Problems []Problem
	Repeats  []Repeat   // by file
	Sidecars []*Sidecar // by id

	files []File
	told  []told      // by file
	epoch time.Time   // of the table's clock
	keys  []merge.Key // of every endpoint that was named, sorted
}

// Scan reads files from end to end. A file that is none, or of another format, is an
// error; one that breaks off is a problem.
func Scan(files []File) (*Recordings, error) {
	if len(files) == 0 {
		return nil, errors.New("no recordings")
	}
	r := &Recordings{files: files}
	s := scan{recordings: r, sidecars: map[string]*Sidecar{}, keys: map[merge.Key]bool{}, stretches: map[lifeKey][]stretch{}}
	for i := range files {
		if err := s.file(i); err != nil {
			return nil, err
		}
	}
	if len(s.sidecars) == 0 {
		return nil, fmt.Errorf("nothing was recorded: %s", r.Problems[0])
	}
	if err := r.repeats(s.stretches); err != nil {
		return nil, err
	}
	for k, all := range s.stretches {
		for _, one := range all {
			s.sidecars[k.id].Messages += one.messages
		}
	}
	for _, again := range r.Repeats {
		s.sidecars[again.Sidecar].Messages -= again.Messages
	}
	for k := range s.keys {
		r.keys = append(r.keys, k)
	}
	slices.SortFunc(r.keys, compareKeys)
	for _, c := range s.sidecars {
		c.Lives = len(c.lives)
		for _, lost := range c.lives {
			c.Lost += lost
		}
		r.Sidecars = append(r.Sidecars, c)
	}
	slices.SortFunc(r.Sidecars, func(a, b *Sidecar) int { return cmp.Compare(a.ID, b.ID) })
	r.epoch = s.first.Add(-headStart)
	return r, nil
}

// scan is a first look under way.
type scan struct {
	recordings *Recordings
	sidecars   map[string]*Sidecar
	keys       map[merge.Key]bool
	first      time.Time // when the earliest of all began
	stretches  map[lifeKey][]stretch
}

func (s *scan) file(index int) (err error) {
	f := s.recordings.files[index]
	in, err := f.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	lives := map[lifeKey]*stretch{}
	var who *Sidecar
	err = eachFrame(f.Name, in, func(h *report.RecordHeader, at time.Time, frame *report.Frame) {
		if frame.Header != nil {
			who = s.header(h)
		} else if !frame.State {
			one := lives[lifeOf(h)]
			if one == nil {
				one = &stretch{file: index}
				lives[lifeOf(h)] = one
			}
			one.tell(at, counts(frame))
		}
		if who.From.IsZero() || at.Before(who.From) {
			who.From = at
		}
		if at.After(who.To) {
			who.To = at
		}
		s.name(who, frame)
	})
	for k, one := range lives {
		s.stretches[k] = append(s.stretches[k], *one)
	}
	return s.end(f.Name, err)
}

func (s *scan) header(h *report.RecordHeader) *Sidecar {
	if s.first.IsZero() || h.Started.Before(s.first) {
		s.first = h.Started
	}
	c := s.sidecars[h.Reporter.ID]
	if c == nil {
		c = &Sidecar{
			ID: h.Reporter.ID, Zone: h.Reporter.Zone, Domain: h.Reporter.Domain(),
			lives: map[uint64]uint64{}, services: map[string]bool{},
		}
		s.sidecars[c.ID] = c
	}
	c.lives[h.Reporter.Incarnation] = max(c.lives[h.Reporter.Incarnation], h.Lost)
	return c
}

// name notes the endpoints of a frame.
func (s *scan) name(who *Sidecar, f *report.Frame) {
	for _, k := range f.Message.Known { // all are named before they are spoken of
		s.keys[k] = true
		who.services[k.Service] = true
	}
	if f.Message.Report != nil {
		for _, o := range f.Message.Report.Own {
			s.keys[o.Key] = true
		}
	}
}

// end tells a file that was read as far as possible from one that is none.
func (s *scan) end(name string, err error) error {
	var where *report.RecordError
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case errors.Is(err, report.ErrTruncated), errors.Is(err, report.ErrDamaged):
		errors.As(err, &where)
		s.recordings.Problems = append(s.recordings.Problems, Problem{
			File: name, Offset: where.Offset, Text: where.Err.Error(), Damaged: errors.Is(err, report.ErrDamaged),
		})
		return nil
	}
	return err
}

func (p Problem) String() string { return fmt.Sprintf("%s: offset %d: %s", p.File, p.Offset, p.Text) }

func compareKeys(a, b merge.Key) int {
	return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Instance, b.Instance))
}
