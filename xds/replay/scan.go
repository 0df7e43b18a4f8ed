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
	Sidecars []*Sidecar // by id

	files []File
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
	s := scan{recordings: r, sidecars: map[string]*Sidecar{}, keys: map[merge.Key]bool{}}
	for _, f := range files {
		if err := s.file(f); err != nil {
			return nil, err
		}
	}
	if len(s.sidecars) == 0 {
		return nil, fmt.Errorf("nothing was recorded: %s", r.Problems[0])
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
}

func (s *scan) file(f File) (err error) {
	in, err := f.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	rec, err := report.OpenRecording(f.Name, in)
	var who *Sidecar
	var began time.Time
	for err == nil {
		var frame report.Frame
		if frame, err = rec.Next(); err != nil {
			break
		}
		if h := frame.Header; h != nil {
			who = s.header(h)
			if began.IsZero() {
				began = h.Started // what instants of this file count from
			}
		}
		if frame.Header == nil && !frame.State && len(frame.Held) == 0 {
			who.Messages++
		}
		at := began.Add(frame.At)
		if who.From.IsZero() || at.Before(who.From) {
			who.From = at
		}
		if at.After(who.To) {
			who.To = at
		}
		s.name(who, &frame)
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
