package report

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/reportpb"
)

// RecorderConfig says where to record, and how much of it is kept.
type RecorderConfig struct {
	// Path of the file that is written. The one before it is PATH.1, and so on.
	Path string
	// MaxSize of one file, in bytes; Files are kept, the one that is written included.
	MaxSize int64
	Files   int
	// Started is the wall clock at instant 0.
	Started time.Time
	// Log gets a line when writing begins to fail, and when it works again; nil is none.
	Log *slog.Logger
}

const (
	// maxQueued is how many bytes may wait for a disk that is slow.
	maxQueued = 16 << 20
	// maxHeld is how many changes of belief may wait for a message to go with.
	maxHeld = 4096
)

// Recorder keeps what a sidecar reports in a file that is bounded and rotates.
//
// Messages are encoded by whoever brings them, under names of the file's own, and
// written by Run. One that cannot wait any more is dropped and counted. The next one
// then begins a segment with all that is known by then: counters are cumulative, so
// that a loss costs detail and nothing else.
//
// A file that an earlier life left is continued. If that life ended in the middle of
// a write, what it began is cut off first.
type Recorder struct {
	cfg  RecorderConfig
	wake chan struct{}

	file *os.File // Run's alone, after the start; nil after a failure
	end  int64    // of the whole frames in file
	sick bool     // the last write failed

	mu          sync.Mutex // guards what follows
	hello       Hello
	incarnation uint64
	greeted     bool
	fresh       bool // the next message begins a segment
	names       *names
	seq         uint64
	known       map[merge.Key]*known
	last        time.Duration               // when the newest message was brought
	held        []*reportpb.HeldChange      // that wait
	verdicts    map[merge.Key]merge.Verdict // of the control plane, that hold now
	size        int64                       // of the file, once all that waits is in it
	queue       []chunk
	queued      int // bytes
	messages    uint64
	lost        uint64
}

// known is what was told of an endpoint.
type known struct {
	cell merge.Cell
	told bool          // there is a cell
	at   time.Duration // when it was last spoken of
}

// chunk is some whole frames.
type chunk struct {
	rotate   bool // it begins a file
	messages uint64
	frames   []byte
}

// NewRecorder opens the file, to find out at once if it cannot be written.
func NewRecorder(cfg RecorderConfig) (*Recorder, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Recorder{cfg: cfg, wake: make(chan struct{}, 1), names: newNames(), known: map[merge.Key]*known{}, fresh: true}
	if err := r.resume(); err != nil {
		return nil, fmt.Errorf("recording: %w", err)
	}
	r.size = r.end
	return r, nil
}

// resume opens the file of an earlier life, or a new one.
func (r *Recorder) resume() error {
	end, err := intact(r.cfg.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r.create()
	case errors.Is(err, ErrDamaged), errors.Is(err, ErrOtherFormat):
		return r.rotate() // it stays as it is
	case err != nil:
		return err // also of what is no recording: it is not ours to move
	}
	if r.file, err = os.OpenFile(r.cfg.Path, os.O_WRONLY|os.O_APPEND, 0o640); err != nil {
		return err
	}
	if err := r.file.Truncate(end); err != nil {
		return err
	}
	if r.end = end; end == 0 {
		return r.title()
	}
	return nil
}

// intact is where the whole frames of a file end. A last one that is not whole is no
// error.
func intact(path string) (end int64, err error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }() // it was only read
	f := newFrames(path, file)
	err = f.title()
	for err == nil {
		_, err = f.next()
	}
	switch {
	case errors.Is(err, ErrTruncated), errors.Is(err, io.EOF):
		return f.offset, nil
	}
	return f.offset, err
}

// create begins the file.
func (r *Recorder) create() error {
	file, err := os.OpenFile(r.cfg.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	r.file, r.end = file, 0
	return r.title()
}

func (r *Recorder) title() error { return r.write([]byte(recordMagic)) }

// rotate moves every file on by one, over the oldest, and begins a new one.
func (r *Recorder) rotate() error {
	if r.file != nil {
		err := r.file.Close()
		r.file = nil
		if err != nil {
			return err
		}
	}
	name := func(i int) string {
		if i == 0 {
			return r.cfg.Path
		}
		return fmt.Sprintf("%s.%d", r.cfg.Path, i)
	}
	if _, err := os.Lstat(r.cfg.Path); errors.Is(err, fs.ErrNotExist) {
		return r.create() // an attempt that failed has moved them already
	}
	for i := r.cfg.Files - 2; i >= 0; i-- {
		if err := os.Rename(name(i), name(i+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return r.create()
}

// write adds whole frames, or leaves the file as it was.
func (r *Recorder) write(frames []byte) error {
	n, err := r.file.Write(frames)
	if err == nil {
		r.end += int64(n)
		return nil
	}
	if n > 0 {
		if cut := r.file.Truncate(r.end); cut != nil {
			// Nothing may follow half a frame: the next attempt begins another file.
			err = errors.Join(err, cut, r.file.Close())
			r.file = nil
		}
	}
	return err
}

// Hello says who records. It is called when a stream begins, and again when another
// does.
func (r *Recorder) Hello(h Hello, incarnation uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.greeted && incarnation != r.incarnation {
		r.fresh = true
	}
	r.hello, r.incarnation, r.greeted = h, incarnation, true
	r.verdicts = make(map[merge.Key]merge.Verdict, len(h.Held))
	for _, v := range h.Held {
		r.verdicts[v.Key] = v
	}
}

// Held notes changes of belief; they go with the next message. It does not block.
func (r *Recorder) Held(changes ...HeldChange) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range changes {
		switch {
		case !c.Fleet:
		case c.To == outlier.In:
			delete(r.verdicts, c.Key)
		default:
			if r.verdicts == nil {
				r.verdicts = map[merge.Key]merge.Verdict{}
			}
			r.verdicts[c.Key] = merge.Verdict{Key: c.Key, State: c.To, Epoch: c.Epoch, Rule: c.Rule}
		}
		if len(r.held) == maxHeld {
			r.held = slices.Delete(r.held, 0, 1)
			r.lost++
		}
		r.held = append(r.held, &reportpb.HeldChange{
			Key: encodeKey(c.Key), From: encodeState(c.From), To: encodeState(c.To), Rule: encodeRule(c.Rule),
			Fleet: c.Fleet, Epoch: c.Epoch, MonoMs: millis(c.At),
		})
	}
}

// Message records what was told. It does not wait for the disk.
func (r *Recorder) Message(m Message, now time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.greeted {
		return
	}
	defer r.remember(m, now)
	if r.queued > maxQueued {
		r.lost++
		r.fresh = true
		return
	}
	c, err := r.chunk(m, now)
	if err != nil {
		r.lost++
		r.fresh = true
		r.cfg.Log.LogAttrs(context.Background(), slog.LevelWarn, "a report could not be recorded", slog.Any("error", err))
		return
	}
	if len(c.frames) == 0 {
		return // nothing was told
	}
	r.held = nil
	if r.size += int64(len(c.frames)); c.rotate {
		r.size = int64(len(recordMagic) + len(c.frames))
	}
	r.queue = append(r.queue, c)
	r.queued += len(c.frames)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// chunk makes what is to be written of a message.
func (r *Recorder) chunk(m Message, now time.Duration) (chunk, error) {
	if !r.fresh {
		c, err := r.encode(m, now)
		if err != nil || r.size+int64(len(c.frames)) <= r.cfg.MaxSize {
			return c, err
		}
	}
	r.fresh = false
	return r.segment(m, now)
}

// encode makes the frames of a message, and of the changes of belief that wait.
func (r *Recorder) encode(m Message, now time.Duration) (chunk, error) {
	e := encoder{names: r.names, seq: &r.seq}
	c := chunk{messages: 1}
	var err error
	for _, up := range e.encode(m, now) {
		if c.frames, err = appendFrame(c.frames, &reportpb.Recorded{Told: up}); err != nil {
			return c, err
		}
	}
	if len(r.held) > 0 {
		if c.frames, err = appendFrame(c.frames, &reportpb.Recorded{Held: r.held}); err != nil {
			r.held = nil
			return c, err
		}
	}
	if e.unnamed > 0 {
		r.forget()
		r.fresh = true
	}
	return c, nil
}

// segment makes the frames of a message so that they can be read without what came
// before, in a new file if there is no room.
func (r *Recorder) segment(m Message, now time.Duration) (chunk, error) {
	r.names = newNames()
	keys := slices.SortedFunc(maps.Keys(r.known), compareKeys)
	state := Message{Known: keys, Report: &merge.Report{}}
	services := map[string]bool{}
	for _, k := range keys {
		services[k.Service] = true
		if one := r.known[k]; one.told {
			state.Report.Cells = append(state.Report.Cells, one.cell)
		}
	}
	for _, k := range m.Known {
		services[k.Service] = true
	}
	hello := r.hello
	hello.Held = nil
	for _, k := range slices.SortedFunc(maps.Keys(r.verdicts), compareKeys) {
		hello.Held = append(hello.Held, r.verdicts[k])
	}
	all, err := appendFrame(nil, &reportpb.Recorded{Header: &reportpb.RecordHeader{
		Hello:         encodeHello(hello, r.incarnation, now).GetHello(),
		StartedUnixMs: r.cfg.Started.UnixMilli(),
		Services:      slices.Sorted(maps.Keys(services)),
		Lost:          r.lost,
		MonoMs:        max(0, now.Milliseconds()),
	}})
	if err != nil {
		return chunk{}, err
	}
	if len(keys) > 0 {
		e := encoder{names: r.names, seq: &r.seq}
		for _, up := range e.encode(state, r.last) {
			if all, err = appendFrame(all, &reportpb.Recorded{State: up}); err != nil {
				return chunk{}, err
			}
		}
	}
	c, err := r.encode(m, now)
	if err != nil {
		return c, err
	}
	c.frames = append(all, c.frames...)
	c.rotate = r.size+int64(len(c.frames)) > r.cfg.MaxSize
	if int64(len(recordMagic)+len(c.frames)) > r.cfg.MaxSize {
		return c, fmt.Errorf("what is known takes %d bytes, more than a whole file", len(c.frames))
	}
	return c, nil
}

// remember keeps the newest that was told of each endpoint, for the next segment.
func (r *Recorder) remember(m Message, now time.Duration) {
	r.last = now
	of := func(k merge.Key) *known {
		one := r.known[k]
		if one == nil {
			one = &known{}
			r.known[k] = one
		}
		one.at = now
		return one
	}
	cell := func(c merge.Cell) {
		c.History = nil
		one := of(c.Key)
		one.cell, one.told = c, true
	}
	for _, k := range m.Known {
		of(k)
	}
	for _, a := range m.Polls {
		cell(a.Cell)
	}
	if m.Report != nil {
		for _, c := range m.Report.Cells {
			cell(c)
		}
	}
}

// forget drops half of the endpoints, those that were spoken of least lately: there
// are more than a segment can name, and some of them must be gone for long.
func (r *Recorder) forget() {
	keys := slices.SortedFunc(maps.Keys(r.known), func(a, b merge.Key) int {
		return cmp.Or(cmp.Compare(r.known[a].at, r.known[b].at), compareKeys(a, b))
	})
	for _, k := range keys[:len(keys)/2] {
		delete(r.known, k)
	}
}

// Run writes until ctx ends and all that was recorded before has been written.
func (r *Recorder) Run(ctx context.Context) error {
	for {
		select {
		case <-r.wake:
			r.flush()
			continue
		case <-ctx.Done():
		}
		r.finish()
		r.flush()
		if r.file == nil {
			return nil
		}
		return r.file.Close()
	}
}

// finish lets changes of belief go without a message: none will come.
func (r *Recorder) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.held) == 0 || r.fresh {
		return // without a header nobody could read them
	}
	frame, err := appendFrame(nil, &reportpb.Recorded{Held: r.held})
	if err != nil || r.size+int64(len(frame)) > r.cfg.MaxSize {
		r.lost++
		return
	}
	r.held = nil
	r.queue = append(r.queue, chunk{frames: frame})
	r.queued += len(frame)
}

// flush writes what waits.
func (r *Recorder) flush() {
	r.mu.Lock()
	queue := r.queue
	r.queue = nil
	r.mu.Unlock()
	for i, c := range queue {
		err := r.put(c)
		r.mu.Lock()
		r.queued -= len(c.frames)
		if err == nil {
			r.messages += c.messages
			r.mu.Unlock()
			if r.sick {
				r.sick = false
				r.cfg.Log.Info("recording again", "path", r.cfg.Path)
			}
			continue
		}
		// What follows in this segment could not be read without it.
		for _, c := range append(queue[i+1:], r.queue...) {
			r.queued -= len(c.frames)
			r.lost += c.messages
		}
		r.lost += c.messages
		r.queue, r.fresh, r.size = nil, true, r.end
		r.mu.Unlock()
		if !r.sick {
			r.sick = true
			r.cfg.Log.Error("nothing is recorded", "path", r.cfg.Path, "error", err)
		}
		return
	}
}

// put writes one chunk.
func (r *Recorder) put(c chunk) error {
	if c.rotate || r.file == nil {
		if err := r.rotate(); err != nil {
			return err
		}
	}
	return r.write(c.frames)
}

// Stats are messages written, and those lost because the disk was slow or full.
func (r *Recorder) Stats() (messages, lost uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.messages, r.lost
}
