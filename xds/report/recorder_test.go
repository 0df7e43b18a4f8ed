package report

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/reportpb"
)

var began = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// newRecorder records into a directory of the test's own.
func newRecorder(t *testing.T, edit func(*RecorderConfig)) *Recorder {
	t.Helper()
	cfg := RecorderConfig{Path: filepath.Join(t.TempDir(), "record"), MaxSize: 1 << 20, Files: 3, Started: began}
	if edit != nil {
		edit(&cfg)
	}
	r, err := NewRecorder(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Hello(Hello{Node: "sidecar-1", Zone: "a", Labels: map[string]string{"node": "host-1"}}, 7)
	return r
}

// finish writes what waits and closes the file.
func finish(t *testing.T, r *Recorder) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

// attempts is a message about one endpoint.
func attempts(k merge.Key, n uint32) Message {
	return Message{Report: &merge.Report{Cells: []merge.Cell{{
		Key: k, Counts: outlier.Counts{N: n}, LastOK: never, LastOKStart: never, LastHard: never, LastHardStart: never,
	}}}}
}

// readAll reads a file to its end or to the first error.
func readAll(path string) ([]Frame, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return readBytes(path, data)
}

func readBytes(name string, data []byte) ([]Frame, error) {
	rec, err := OpenRecording(name, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	var all []Frame
	for {
		f, err := rec.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, f)
	}
}

func mustRead(t *testing.T, path string) []Frame {
	t.Helper()
	all, err := readAll(path)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// counts is what the frames say of an endpoint, in order.
func counts(all []Frame, k merge.Key) (told, state []uint32) {
	for _, f := range all {
		if f.Message.Report == nil {
			continue
		}
		for _, c := range f.Message.Report.Cells {
			if c.Key == k && f.State {
				state = append(state, c.Counts.N)
			} else if c.Key == k {
				told = append(told, c.Counts.N)
			}
		}
	}
	return told, state
}

func TestARecordingIsReadAsItWasTold(t *testing.T) {
	r := newRecorder(t, nil)
	r.Hello(Hello{
		Node: "sidecar-1", Zone: "a", Region: "r", Labels: map[string]string{"node": "host-1"},
		Own: []Own{{Key: api1, Age: ms(4000)}}, Held: []merge.Verdict{{Key: api2, Epoch: 9, State: outlier.Ejected, Rule: outlier.RuleFast}},
	}, 7)
	change := HeldChange{Key: api2, From: outlier.In, To: outlier.Ejected, Rule: outlier.RuleHard, Fleet: true, Epoch: 10, At: ms(400)}
	r.Held(change)
	m := everything()
	r.Message(m, ms(1000))
	late := HeldChange{Key: api1, From: outlier.In, To: outlier.Suspended, Rule: outlier.RuleStalled, At: ms(1200)}
	r.Held(late)
	finish(t, r)

	all := mustRead(t, r.cfg.Path)
	if len(all) != 4 {
		t.Fatalf("got %d frames, want a header, a message, two changes: %+v", len(all), all)
	}
	wantHeader := &RecordHeader{
		Reporter: merge.Reporter{
			ID: "sidecar-1", Incarnation: 7, Node: "host-1", Zone: "a", Region: "r", Labels: map[string]string{"node": "host-1"},
		},
		Started: began, Services: []string{"api"},
		Own:  []Own{{Key: api1, Age: ms(4000)}},
		Held: []merge.Verdict{{Key: api2, Epoch: 10, State: outlier.Ejected, Rule: outlier.RuleHard}}, // what holds now
	}
	if diff := cmp.Diff(wantHeader, all[0].Header); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	want := Frame{Offset: all[1].Offset, At: ms(1000), Message: m}
	want.Message.Known = []merge.Key{api1, api2, db1} // all that was named
	want.Message.Report.Reporter, want.Message.Report.Incarnation, want.Message.Report.Seq = "sidecar-1", 7, 2
	want.Message.Report.At, want.Message.Report.Received = ms(1000), ms(1000)
	want.Message.Polls[0].Reporter, want.Message.Polls[0].Seq, want.Message.Polls[0].At = "sidecar-1", 1, ms(1000)
	if diff := cmp.Diff(want, all[1], cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("message (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]HeldChange{change, late}, slices.Concat(all[2].Held, all[3].Held)); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

func TestRecordingsAreAlignedByTheWallClockOfTheirStart(t *testing.T) {
	r := newRecorder(t, func(c *RecorderConfig) { c.Started = began.Add(2 * time.Second) })
	r.Message(everything(), ms(1000))
	finish(t, r)
	data, err := os.ReadFile(r.cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := OpenRecording("x", bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	rec.Align(began.Add(-time.Minute))
	head, err := rec.Next()
	if want := 63 * time.Second; err != nil || head.At != want { // when the segment begins
		t.Errorf("the header is at %v (%v), want %v", head.At, err, want)
	}
	f, err := rec.Next()
	if want := 63 * time.Second; err != nil || f.At != want || f.Message.Report.At != want {
		t.Errorf("the message is at %v, its report at %v (%v), want %v", f.At, f.Message.Report.At, err, want)
	}
	if got, want := f.Message.Report.Cells[0].LastOK, 62*time.Second+ms(900); got != want {
		t.Errorf("the last success is at %v, want %v", got, want)
	}
}

// sample is a recording of a few messages, and where its frames begin.
func sample(t *testing.T) (data []byte, offsets []int64) {
	t.Helper()
	r := newRecorder(t, nil)
	for i := range 5 {
		r.Message(attempts(api1, uint32(i)), ms(int64(1000*(i+1))))
	}
	finish(t, r)
	data, err := os.ReadFile(r.cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range mustRead(t, r.cfg.Path) {
		offsets = append(offsets, f.Offset)
	}
	return data, offsets
}

func TestATruncatedRecordingLosesItsLastFrameOnly(t *testing.T) {
	data, offsets := sample(t)
	whole := map[int]bool{len(data): true}
	for _, o := range offsets[1:] {
		whole[int(o)] = true
	}
	for n := range len(data) + 1 {
		got, err := readBytes("shop-1.rec", data[:n])
		want := 0 // frames that are whole
		at := int64(0)
		if n >= len(recordMagic) {
			at = int64(len(recordMagic))
		}
		for i, o := range offsets {
			end := int64(len(data))
			if i+1 < len(offsets) {
				end = offsets[i+1]
			}
			if int64(n) >= end {
				want, at = i+1, end
			} else if int64(n) > o {
				at = o
			}
		}
		if len(got) != want {
			t.Fatalf("of %d bytes: got %d frames, want %d", n, len(got), want)
		}
		if whole[n] {
			if err != nil {
				t.Fatalf("of %d bytes, which are whole frames: %v", n, err)
			}
			continue
		}
		var where *RecordError
		if !errors.Is(err, ErrTruncated) || !errors.As(err, &where) || where.File != "shop-1.rec" || where.Offset != at {
			t.Fatalf("of %d bytes: got error %v, want truncated at offset %d", n, err, at)
		}
	}
}

func TestADamagedRecordingIsReadUpToTheDamage(t *testing.T) {
	data, offsets := sample(t)
	for i := len(recordMagic); i < len(data); i++ {
		bad := bytes.Clone(data)
		bad[i] ^= 0x55
		frame := 0
		for n, o := range offsets {
			if int64(i) >= o {
				frame = n
			}
		}
		got, err := readBytes("shop-1.rec", bad)
		var where *RecordError
		if !errors.As(err, &where) || where.Offset != offsets[frame] {
			t.Fatalf("byte %d is wrong: got error %v, want one at offset %d", i, err, offsets[frame])
		}
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrTruncated) {
			t.Fatalf("byte %d is wrong: got error %v, want damaged or, of a length, truncated", i, err)
		}
		if len(got) != frame {
			t.Fatalf("byte %d is wrong: got %d frames, want the %d before it", i, len(got), frame)
		}
	}
}

func TestWhatIsNoRecordingIsSaidToBeNone(t *testing.T) {
	for name, tc := range map[string]struct {
		data   string
		reason error
		text   string
	}{
		"another file":        {"node: {id: shop-1}\n1234567890", ErrNoRecording, `f: offset 0: is no recording: it does not begin with "overhear recording 1"`},
		"another format":      {"overhear recording 2\n\x01\x02", ErrOtherFormat, `f: offset 0: is no recording that this version can read: its format is "2", want "1"`},
		"nothing":             {"", ErrTruncated, "f: offset 0: ends in the middle of a frame: it has 0 bytes of its first line"},
		"a title":             {recordMagic, ErrTruncated, "f: offset 21: ends in the middle of a frame: it has no header"},
		"zeros after a crash": {recordMagic + "\x00\x00\x00", ErrDamaged, "f: offset 21: is damaged: a frame of 0 bytes is none"},
		"a length of a world": {recordMagic + "\xff\xff\xff\xff\x7f", ErrDamaged, "f: offset 21: is damaged: no length of a frame"},
	} {
		_, err := readBytes("f", []byte(tc.data))
		if !errors.Is(err, tc.reason) || err.Error() != tc.text {
			t.Errorf("%s: got %q, want %q", name, err, tc.text)
		}
	}
}

func TestFilesRotateWithinTheirBounds(t *testing.T) {
	const size, files = 1 << 20, 3
	r := newRecorder(t, func(c *RecorderConfig) { c.MaxSize, c.Files = size, files })
	n := uint32(0)
	for i := range 100_000 {
		n++
		m := attempts(merge.Key{Service: "api", Instance: fmt.Sprintf("api-%d-%s", i%50, strings.Repeat("x", 100))}, n)
		m.Report.Cells = append(m.Report.Cells, attempts(api1, n).Report.Cells...)
		r.Message(m, ms(int64(i)+1))
		if i%100 == 0 {
			r.flush()
		}
	}
	finish(t, r)
	entries, err := os.ReadDir(filepath.Dir(r.cfg.Path))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != files {
		t.Errorf("got %d files, want %d", len(entries), files)
	}
	next := uint32(0)
	for i := files - 1; i >= 0; i-- {
		path := r.cfg.Path
		if i > 0 {
			path += fmt.Sprint(".", i)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > size || i > 0 && info.Size() < size*9/10 {
			t.Errorf("%s has %d bytes, want nearly and at most %d", path, info.Size(), size)
		}
		all := mustRead(t, path)
		told, state := counts(all, api1)
		if len(state) != 1 || state[0] != told[0]-1 {
			t.Errorf("%s begins with %v as what was told before %d, want one less", path, state, told[0])
		}
		if next != 0 && told[0] != next {
			t.Errorf("%s begins with message %d, want %d", path, told[0], next)
		}
		next = told[len(told)-1] + 1
	}
	if next != n+1 {
		t.Errorf("the newest message is %d, want %d", next-1, n)
	}
}

func TestARestartGoesOnAfterTheLastWholeFrame(t *testing.T) {
	r := newRecorder(t, nil)
	r.Message(attempts(api1, 1), ms(1000))
	r.Message(attempts(api1, 2), ms(2000))
	finish(t, r)
	info, err := os.Stat(r.cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(r.cfg.Path, info.Size()-3); err != nil { // as a crash leaves it
		t.Fatal(err)
	}
	again := newRecorder(t, func(c *RecorderConfig) { c.Path = r.cfg.Path; c.Started = began.Add(time.Minute) })
	again.Hello(Hello{Node: "sidecar-1"}, 8)
	again.Message(attempts(api1, 77), ms(1000))
	finish(t, again)
	all := mustRead(t, r.cfg.Path)
	told, _ := counts(all, api1)
	if diff := cmp.Diff([]uint32{1, 77}, told); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	var lives []uint64
	for _, f := range all {
		if f.Header != nil {
			lives = append(lives, f.Header.Reporter.Incarnation)
		}
	}
	if diff := cmp.Diff([]uint64{7, 8}, lives); diff != "" {
		t.Errorf("incarnations (-want +got):\n%s", diff)
	}
	if last := all[len(all)-1]; last.At != time.Minute+ms(1000) {
		t.Errorf("the second life's message is at %v, want 1m1s after the first began", last.At)
	}
}

func TestAFileThatIsNotOursStaysAsItIs(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		content string
		refused bool
		moved   bool
	}{
		"somebody else's":    {content: "precious", refused: true},
		"of another version": {content: "overhear recording 9\nprecious", moved: true},
		"damaged":            {content: recordMagic + "\x05precious bytes", moved: true},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := NewRecorder(RecorderConfig{Path: path, MaxSize: 1 << 20, Files: 3})
		if (err != nil) != tc.refused {
			t.Errorf("%s: got error %v, want one: %t", name, err, tc.refused)
		}
		if err == nil {
			finish(t, r)
		}
		where := path
		if tc.moved {
			where += ".1"
		}
		if got, err := os.ReadFile(where); err != nil || string(got) != tc.content {
			t.Errorf("%s: %s has %q (%v), want it untouched", name, where, got, err)
		}
	}
}

func TestWhatASlowDiskLosesIsCountedAndHealed(t *testing.T) {
	r := newRecorder(t, func(c *RecorderConfig) { c.MaxSize = 64 << 20 })
	label := strings.Repeat("x", 450)
	n := uint32(0)
	for r.lost == 0 { // nobody writes
		n++
		m := attempts(api1, n)
		for i := range 1000 {
			m.Known = append(m.Known, merge.Key{Service: label, Instance: fmt.Sprint(label, n, "-", i)})
		}
		r.Message(m, ms(int64(n)))
		if r.queued > maxQueued+2*maxMessage {
			t.Fatalf("%d bytes wait, want at most %d and a message", r.queued, maxQueued)
		}
	}
	r.flush()
	r.Message(attempts(api1, n+1), ms(int64(n)+1))
	finish(t, r)
	all := mustRead(t, r.cfg.Path)
	var second *RecordHeader
	told, state := counts(all, api1)
	for _, f := range all[1:] {
		if f.Header != nil {
			second = f.Header
		}
	}
	if second == nil || second.Lost != 1 {
		t.Errorf("after the loss a segment begins with header %+v, want one that says 1 was lost", second)
	}
	if want := []uint32{n}; !cmp.Equal(want, state) {
		t.Errorf("the segment begins with counts %v, want those of the message that was lost, %v", state, want)
	}
	if got := told[len(told)-1]; got != n+1 {
		t.Errorf("the newest count is %d, want %d", got, n+1)
	}
	if messages, lost := r.Stats(); messages != uint64(n) || lost != 1 {
		t.Errorf("got %d messages and %d lost, want %d and 1", messages, lost, n)
	}
}

func TestADiskThatFailsSpoilsNothing(t *testing.T) {
	r := newRecorder(t, nil)
	r.Message(attempts(api1, 1), ms(1000))
	r.flush()
	good := r.file
	readOnly, err := os.Open(r.cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	r.file = readOnly
	for i := range 3 {
		r.Message(attempts(api1, uint32(2+i)), ms(int64(2000+i)))
	}
	r.flush()
	if _, lost := r.Stats(); lost != 3 {
		t.Errorf("%d messages are lost, want 3", lost)
	}
	readOnly.Close()
	r.file = good
	r.Message(attempts(api1, 5), ms(5000))
	finish(t, r)
	told, state := counts(mustRead(t, r.cfg.Path), api1)
	if diff := cmp.Diff([]uint32{1, 5}, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]uint32{4}, state); diff != "" {
		t.Errorf("known when writing worked again (-want +got):\n%s", diff)
	}
}

func TestMoreEndpointsThanNamesAreForgottenByHalf(t *testing.T) {
	r := newRecorder(t, func(c *RecorderConfig) { c.MaxSize = 64 << 20 })
	for i := range 25 {
		var m Message
		for j := range 1000 {
			m.Known = append(m.Known, merge.Key{Service: "api", Instance: fmt.Sprint(i, "-", j)})
		}
		r.Message(m, ms(int64(i)+1))
		r.flush()
	}
	r.Message(attempts(api1, 3), ms(100))
	finish(t, r)
	if len(r.known) > maxRefs {
		t.Errorf("%d endpoints are remembered, want at most %d", len(r.known), maxRefs)
	}
	if told, _ := counts(mustRead(t, r.cfg.Path), api1); !cmp.Equal(told, []uint32{3}) {
		t.Errorf("the newest endpoint's counts are %v, want 3", told)
	}
}

// talker is a Source with a count that grows each second.
type talker struct {
	ready  chan struct{}
	mu     sync.Mutex
	hellos int
	n      uint32
	links  []bool
}

func newTalker(ctx context.Context) *talker {
	s := &talker{ready: make(chan struct{}, 1)}
	go func() {
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
				select {
				case s.ready <- struct{}{}:
				default:
				}
			}
		}
	}()
	return s
}

func (s *talker) Hello() Hello {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hellos++
	return Hello{Node: "sidecar-1"}
}
func (s *talker) Ready() <-chan struct{} { return s.ready }
func (s *talker) Build() Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	return attempts(api1, s.n)
}
func (s *talker) Handle(Orders) {}
func (s *talker) Link(up bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.links = append(s.links, up)
}

func TestAClientRecordsWhetherOrNotSomebodyListens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.server.Stop() // nobody listens yet
		ctx, cancel := context.WithCancel(t.Context())
		source, r := newTalker(ctx), newRecorder(t, func(c *RecorderConfig) { c.Started = time.Now() })
		start := time.Now()
		client := NewClient(w.dial("10.0.0.2"), ClientConfig{Incarnation: 7, Now: func() time.Duration { return time.Since(start) }, Recorder: r}, source)
		var wg sync.WaitGroup
		recording, end := context.WithCancel(context.Background())
		wg.Go(func() {
			if err := client.Run(ctx); err != nil {
				t.Error(err)
			}
			end()
		})
		wg.Go(func() {
			if err := r.Run(recording); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(10 * time.Second)
		w.start()
		time.Sleep(30 * time.Second)
		cancel()
		wg.Wait()
		told, _ := counts(mustRead(t, r.cfg.Path), api1)
		for i, n := range told {
			if n != uint32(i+1) {
				t.Fatalf("recorded counts are %v, want each that was built", told)
			}
		}
		if len(told) < 35 {
			t.Errorf("got %d messages within 40s, want one a second", len(told))
		}
		w.sink.mu.Lock()
		heard := len(w.sink.reports)
		w.sink.mu.Unlock()
		if heard == 0 || heard >= len(told) {
			t.Errorf("the control plane heard %d of %d, want those of the time after it came", heard, len(told))
		}
	})
}

func TestWithoutAControlPlaneAClientOnlyRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		source, r := newTalker(ctx), newRecorder(t, nil)
		start := time.Now()
		client := NewClient(nil, ClientConfig{Incarnation: 7, Now: func() time.Duration { return time.Since(start) }, Recorder: r}, source)
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := client.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(5500 * time.Millisecond)
		cancel()
		wg.Wait()
		finish(t, r)
		told, _ := counts(mustRead(t, r.cfg.Path), api1)
		if diff := cmp.Diff([]uint32{1, 2, 3, 4, 5, 6}, told); diff != "" {
			t.Errorf("recorded (-want +got):\n%s", diff)
		}
	})
}

// A recording may come from anywhere. Whatever is in it: no panic, no endless loop, and
// instants that can be added up.
func FuzzReadRecording(f *testing.F) {
	r := &Recorder{cfg: RecorderConfig{MaxSize: 1 << 20, Started: began}, wake: make(chan struct{}, 1), names: newNames(), known: map[merge.Key]*known{}, fresh: true}
	r.Hello(Hello{Node: "sidecar-1"}, 7)
	r.Held(HeldChange{Key: api1, To: outlier.Ejected, At: ms(1)})
	r.Message(everything(), ms(1000))
	r.fresh = true
	r.Message(attempts(api1, 200), ms(2000))
	good := []byte(recordMagic)
	for _, c := range r.queue {
		good = append(good, c.frames...)
	}
	told, err := proto.Marshal(&reportpb.Recorded{Told: newEncoder().encode(everything(), ms(3000))[0]})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, told, int64(0))
	f.Add(good[:len(good)-2], []byte{}, int64(1)<<62)
	f.Add([]byte(recordMagic), told, int64(-1)<<62)
	f.Fuzz(func(t *testing.T, data, body []byte, epoch int64) {
		// What has a right checksum, too, may be anything.
		data = binary.AppendUvarint(bytes.Clone(data), uint64(len(body)))
		data = append(data, body...)
		data = binary.LittleEndian.AppendUint32(data, crc32.Checksum(body, castagnoli))
		rec, err := OpenRecording("f", bytes.NewReader(data))
		if err != nil {
			var where *RecordError
			if !errors.As(err, &where) {
				t.Fatalf("opening: %v is no *RecordError", err)
			}
			return
		}
		rec.Align(time.Unix(0, epoch))
		before := int64(-1)
		for {
			fr, err := rec.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				var where *RecordError
				if !errors.As(err, &where) || where.Offset <= before || where.Offset > int64(len(data)) {
					t.Fatalf("reading %d bytes after offset %d: error %v", len(data), before, err)
				}
				return
			}
			if fr.Offset <= before || fr.At < 0 || fr.At > aligned {
				t.Fatalf("frame at offset %d after %d is at %v", fr.Offset, before, fr.At)
			}
			before = fr.Offset
		}
	})
}
