package replay

import (
	"cmp"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/xds/report"
)

// Repeat is a file that tells again what another one tells of a sidecar: a copy, or
// one that was taken while the sidecar went on or rotated. It counts once.
type Repeat struct {
	File     string `json:"file"`
	Sidecar  string `json:"sidecar"`
	Messages int    `json:"messages"` // that count in another file
}

// lifeKey is one incarnation of a sidecar.
type lifeKey struct {
	id          string
	incarnation uint64
}

func lifeOf(h *report.RecordHeader) lifeKey {
	return lifeKey{h.Reporter.ID, h.Reporter.Incarnation}
}

// stretch is what one file tells of one life: the files of a life that was recorded
// once lie one after the other, for each begins when the one before it is full.
type stretch struct {
	file     int
	from, to time.Time
	messages int
}

// tell takes in a frame that is no header and repeats nothing by itself.
func (s *stretch) tell(at time.Time, message bool) {
	if s.from.IsZero() {
		s.from = at
	}
	s.to = at
	if message {
		s.messages++
	}
}

// told is, for one file, until when others have told of a life.
type told map[lifeKey]time.Time

// already says whether what a file tells at that time is in another one.
func (t told) already(k lifeKey, at time.Time) bool {
	until, ok := t[k]
	return ok && !at.After(until)
}

// repeats finds the files that tell of a time of which others tell as well. The one
// that begins first, and of those the longest, is the one that counts.
func (r *Recordings) repeats(lives map[lifeKey][]stretch) error {
	r.told = make([]told, len(r.files))
	for k, all := range lives {
		slices.SortFunc(all, func(a, b stretch) int {
			return cmp.Or(a.from.Compare(b.from), b.to.Compare(a.to), cmp.Compare(a.file, b.file))
		})
		covered := all[0]
		for _, s := range all[1:] {
			same := s.from.Equal(covered.from) && s.to.Equal(covered.to)
			if !same && !s.from.Before(covered.to) {
				covered = s
				continue
			}
			if r.told[s.file] == nil {
				r.told[s.file] = told{}
			}
			r.told[s.file][k] = covered.to
			again := s.messages
			if s.to.After(covered.to) {
				var err error
				if again, err = r.countUntil(s.file, k, covered.to); err != nil {
					return err
				}
				covered.to = s.to
			}
			r.Repeats = append(r.Repeats, Repeat{File: r.files[s.file].Name, Sidecar: k.id, Messages: again})
		}
	}
	slices.SortFunc(r.Repeats, func(a, b Repeat) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Sidecar, b.Sidecar))
	})
	return nil
}

// countUntil counts the messages that a file has of a life up to some time.
func (r *Recordings) countUntil(file int, k lifeKey, until time.Time) (n int, err error) {
	f := r.files[file]
	in, err := f.Open()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	err = eachFrame(f.Name, in, func(h *report.RecordHeader, at time.Time, frame *report.Frame) {
		if lifeOf(h) == k && !at.After(until) && counts(frame) {
			n++
		}
	})
	if errors.Is(err, io.EOF) || errors.Is(err, report.ErrTruncated) || errors.Is(err, report.ErrDamaged) {
		return n, nil // the first look has said so
	}
	return n, err
}

// eachFrame reads a recording to its end or to where it breaks off, which is the error:
// the header of each frame's segment, when it was written, and the frame.
func eachFrame(name string, in io.Reader, do func(*report.RecordHeader, time.Time, *report.Frame)) error {
	rec, err := report.OpenRecording(name, in)
	if err != nil {
		return err
	}
	header := rec.Header()
	began := header.Started // what instants of this file count from
	for {
		frame, err := rec.Next()
		if err != nil {
			return err
		}
		if frame.Header != nil {
			header = *frame.Header
		}
		do(&header, began.Add(frame.At), &frame)
	}
}

// counts says whether a frame is a message that a sidecar has sent.
func counts(f *report.Frame) bool { return f.Header == nil && !f.State && len(f.Held) == 0 }
