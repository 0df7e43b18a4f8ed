package report

import (
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/reportpb"
)

// RecordHeader says who has recorded. It begins a segment.
type RecordHeader struct {
	// Reporter is the sidecar. Nobody knows its principal: one without a node label
	// is a fault domain by itself.
	Reporter merge.Reporter
	// Started is the wall clock at which the incarnation began.
	Started time.Time
	// Services of which it knew endpoints when the segment began.
	Services []string
	// Own are the instances beside which it stands, Held the verdicts that it knew.
	Own  []Own
	Held []merge.Verdict
	// Lost is how many messages of the incarnation were not recorded until then.
	Lost uint64
}

// HeldChange is a change in what a sidecar believed of an endpoint.
type HeldChange struct {
	Key      merge.Key
	From, To outlier.State
	Rule     outlier.Rule
	Fleet    bool   // the control plane's verdict; else the sidecar's own
	Epoch    uint64 // of the verdict
	At       time.Duration
}

// Frame is one entry of a recording. Its instants count from the epoch given to
// Align, else from the Started of the first header.
type Frame struct {
	// Offset in the file.
	Offset int64
	// At is when it was written.
	At time.Duration
	// Header, if a segment begins.
	Header *RecordHeader
	// State: Message repeats what was told in earlier segments, for whoever has not
	// read those.
	State   bool
	Message Message
	Held    []HeldChange
	// Refused counts what cannot be, by reason; it was left out.
	Refused map[Refusal]int
}

// Recording reads what a Recorder has written.
type Recording struct {
	frames *frames
	first  *Frame // read by OpenRecording, not returned yet
	header RecordHeader
	epoch  time.Time
	last   time.Duration // when the newest frame was written

	// of the segment
	decoder *decoder
	begins  time.Duration // by the incarnation's clock
	shift   time.Duration // epoch's clock - the incarnation's
}

// OpenRecording begins to read r, which errors call name. The error is a *RecordError.
func OpenRecording(name string, r io.Reader) (*Recording, error) {
	rec := &Recording{frames: newFrames(name, r)}
	if err := rec.frames.title(); err != nil {
		return nil, err
	}
	f, err := rec.read()
	if err == io.EOF { //nolint:errorlint // read returns this very value
		err = rec.frames.fail(ErrTruncated, "it has no header")
	}
	if err != nil {
		return nil, err
	}
	if f.Header == nil {
		return nil, rec.frames.fail(ErrDamaged, "it does not begin with a header")
	}
	rec.first = &f
	rec.Align(f.Header.Started)
	return rec, nil
}

// Header is that of the segment that is being read.
func (r *Recording) Header() RecordHeader { return r.header }

// Align makes all instants count from an epoch, which should be some time before the
// Started of all recordings that are read together: an instant before it cannot be
// told from never. It is to be called before the first Next; without it they count
// from the Started of the first header.
func (r *Recording) Align(epoch time.Time) {
	r.epoch = epoch
	r.begin()
	r.first.At = r.last
}

// Next reads on. io.EOF is the end of a whole recording; any other error is a
// *RecordError and stays.
func (r *Recording) Next() (Frame, error) {
	if f := r.first; f != nil {
		r.first = nil
		return *f, nil
	}
	return r.read()
}

func (r *Recording) read() (Frame, error) {
	f := Frame{Offset: r.frames.offset, At: r.last}
	body, err := r.frames.next()
	if err != nil {
		return f, err
	}
	var m reportpb.Recorded
	if err := proto.Unmarshal(body, &m); err != nil {
		r.frames.offset = f.Offset
		return f, r.frames.fail(ErrDamaged, "%v", err)
	}
	switch {
	case m.GetHeader() != nil:
		if why := r.head(m.GetHeader()); why != "" {
			r.frames.offset = f.Offset
			return f, r.frames.fail(ErrDamaged, "a header is refused: %s", why)
		}
		header := r.header
		f.Header, f.At = &header, r.last
	case r.decoder == nil:
		r.frames.offset = f.Offset
		return f, r.frames.fail(ErrDamaged, "it does not begin with a header")
	case m.GetTold() != nil:
		r.decode(&f, m.GetTold())
	case m.GetState() != nil:
		f.State = true
		r.decode(&f, m.GetState())
	default:
		r.changes(&f, m.GetHeld())
	}
	return f, nil
}

// head begins a segment.
func (r *Recording) head(p *reportpb.RecordHeader) Refusal {
	hello, incarnation, why := decodeHello(p.GetHello())
	if why != "" {
		return why
	}
	r.header = RecordHeader{
		Reporter: merge.Reporter{
			ID: hello.Node, Incarnation: incarnation, Node: hello.Labels["node"],
			Zone: hello.Zone, Region: hello.Region, Labels: hello.Labels,
		},
		Started:  time.UnixMilli(p.GetStartedUnixMs()),
		Services: slices.Clone(p.GetServices()),
		Own:      hello.Own, Held: hello.Held, Lost: p.GetLost(),
	}
	r.begins = max(0, instant(p.GetMonoMs()))
	r.begin()
	return ""
}

// begin aligns a segment.
func (r *Recording) begin() {
	r.decoder = &decoder{authority: believer{r.header.Reporter.ID}, node: r.header.Reporter.ID}
	r.shift = r.header.Started.Sub(r.epoch)
	r.last = r.align(r.begins)
}

// aligned bounds instants so that sums of two do not turn over.
const aligned = time.Duration(1 << 61)

// align maps an instant of the incarnation's clock.
func (r *Recording) align(stamp time.Duration) time.Duration {
	return min(max(0, min(r.shift, aligned)+stamp), aligned)
}

func (r *Recording) decode(f *Frame, up *reportpb.Up) {
	out := r.decoder.decode(up, r.align(max(0, instant(up.GetMonoMs()))))
	f.Refused = out.aside.Counts
	f.Message = Message{Report: out.report, Probes: out.probes, Polls: out.polls, Probations: out.probations}
	if out.report != nil {
		out.report.Incarnation = r.header.Reporter.Incarnation
	}
	for h := range out.declared {
		f.Message.Known = append(f.Message.Known, h.Value())
	}
	slices.SortFunc(f.Message.Known, compareKeys)
	if stamp := instant(up.GetMonoMs()); stamp >= 0 {
		r.last = r.align(stamp)
	}
	f.At = r.last
}

func (r *Recording) changes(f *Frame, list []*reportpb.HeldChange) {
	for _, p := range list {
		k, ok := decodeKey(p.GetKey())
		at := instant(p.GetMonoMs())
		if !ok || at < 0 {
			if f.Refused == nil {
				f.Refused = map[Refusal]int{}
			}
			f.Refused[BadTime]++
			continue
		}
		f.Held = append(f.Held, HeldChange{
			Key: k, From: decodeState(p.GetFrom()), To: decodeState(p.GetTo()), Rule: decodeRule(p.GetRule()),
			Fleet: p.GetFleet(), Epoch: p.GetEpoch(), At: r.align(at),
		})
	}
}

func compareKeys(a, b merge.Key) int {
	if c := strings.Compare(a.Service, b.Service); c != 0 {
		return c
	}
	return strings.Compare(a.Instance, b.Instance)
}

// believer is the authority over a recording: whoever has its file may say what it
// likes.
type believer struct{ node string }

func (believer) Sent(string, string) bool { return true }

func (believer) Named(k merge.Key) (merge.Key, bool) { return k, true }

func (b believer) Owner(merge.Key) (string, netip.Addr) { return b.node, netip.Addr{} }
