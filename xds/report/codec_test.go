package report

import (
	"math"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/reportpb"
)

var (
	api1 = merge.Key{Service: "api", Instance: "api-1"}
	api2 = merge.Key{Service: "api", Instance: "api-2"}
	db1  = merge.Key{Service: "db", Instance: "10.0.0.7:5432"}
)

// registry is an Authority that is all data.
type registry struct {
	sent   map[string]bool // services, to every node
	owners map[merge.Key]string
	addrs  map[merge.Key]netip.Addr
	named  map[merge.Key]merge.Key // by target and address
}

func (r registry) Sent(_, service string) bool { return r.sent[service] }

func (r registry) Named(k merge.Key) (merge.Key, bool) {
	k, ok := r.named[k]
	return k, ok
}

func (r registry) Owner(k merge.Key) (string, netip.Addr) { return r.owners[k], r.addrs[k] }

func openRegistry() registry {
	return registry{sent: map[string]bool{"api": true, "db": true}, owners: map[merge.Key]string{api1: "sidecar-1"}}
}

func newDecoder(r registry) *decoder {
	return &decoder{authority: r, node: "sidecar-1", addr: netip.MustParseAddr("10.0.0.1")}
}

// ms is an instant that survives the wire.
func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

func everything() Message {
	counts := outlier.Counts{N: 100, Conn: 1, Timeout: 2, Server: 3, Over: 4, Cens: 5, N90: 6, N99: 7}
	return Message{
		Known: []merge.Key{api1, api2},
		Report: &merge.Report{
			LHM: 3,
			Cells: []merge.Cell{
				{
					Key: api1, Counts: counts, Overdue: 2,
					LastOK: ms(900), LastOKStart: ms(890), LastHard: ms(950), LastHardStart: ms(940),
					State: outlier.Suspended, Witness: outlier.LevelTLS, Score: -1234,
					History: []merge.Point{{At: ms(100), N: 1, K: 0}, {At: ms(200), N: 2, K: 1, Paced: true}, {At: ms(300), N: 3, K: 2, N90: 1, N99: 1, Paced: true}},
				},
				{Key: db1, LastOK: never, LastOKStart: never, LastHard: never, LastHardStart: never, State: outlier.Draining},
			},
			Clusters: []merge.ClusterTotals{{Service: "api", N: 1 << 40, K: 17, Overdue: ms(750), Slower: 3.25, Latency: []outlier.LatencyCount{{Bucket: 0, Count: 3}, {Bucket: 159, Count: 1}}}},
			Own:      []merge.OwnCell{{Key: api1, N: 9, K: 3, Relayed: 2, Draining: true, LastOK: ms(80), Refused: ms(90), Started: ms(10)}},
		},
		Probes: []Probed{
			{ID: 7, Key: api2, Level: outlier.LevelConnect, Result: outlier.Refused, Start: ms(1), End: ms(2), Epoch: 5},
			{ID: 8, Key: api2, Level: outlier.LevelApp, Result: outlier.Unhealthy, Start: ms(3), End: ms(4)},
			{ID: 9, Key: api2, Result: outlier.NotRun, Start: never, End: never},
		},
		Polls: []merge.PollAnswer{{
			ID: 11, Then: merge.Point{At: ms(500), N: 50, K: 1},
			Cell: merge.Cell{Key: db1, Counts: counts, Overdue: 1, LastOK: ms(900), LastOKStart: ms(890), LastHard: never, LastHardStart: never},
		}},
		Probations: []Probation{{Key: api2, Epoch: 99, Counts: counts}},
	}
}

// carry puts a message over the wire, bytes and all.
func carry(t *testing.T, e *encoder, d *decoder, m Message, now, received time.Duration) []decoded {
	t.Helper()
	var all []decoded
	for _, up := range e.encode(m, now) {
		b, err := proto.Marshal(up)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > maxMessage {
			t.Fatalf("a message of %d bytes, want at most %d", len(b), maxMessage)
		}
		var back reportpb.Up
		if err := proto.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		all = append(all, d.decode(&back, received))
	}
	return all
}

func newEncoder() *encoder { return &encoder{names: newNames(), seq: new(uint64)} }

func TestAMessageArrivesAsItLeft(t *testing.T) {
	m := everything()
	got := carry(t, newEncoder(), newDecoder(openRegistry()), m, ms(1000), ms(1000))
	if len(got) != 1 {
		t.Fatalf("got %d messages, want 1", len(got))
	}
	out := got[0]
	if len(out.aside.Counts) != 0 {
		t.Errorf("refused: got %v, want nothing", out.aside.Counts)
	}
	want := m
	want.Report.Reporter, want.Report.Seq, want.Report.At, want.Report.Received = "sidecar-1", 2, ms(1000), ms(1000)
	want.Polls[0].Reporter, want.Polls[0].Seq, want.Polls[0].At = "sidecar-1", 1, ms(1000)
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"report", out.report, want.Report},
		{"probes", out.probes, want.Probes},
		{"polls", out.polls, want.Polls},
		{"probations", out.probations, want.Probations},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.what, diff)
		}
	}
	if got, want := len(out.declared), 3; got != want {
		t.Errorf("declared: got %d names, want %d", got, want)
	}
}

func TestANameIsDeclaredOnce(t *testing.T) {
	e, d := newEncoder(), newDecoder(openRegistry())
	carry(t, e, d, everything(), ms(1000), ms(1000))
	for _, out := range carry(t, e, d, everything(), ms(2000), ms(2000)) {
		if len(out.declared) != 0 || len(out.aside.Counts) != 0 {
			t.Errorf("the second time: declared %d names, refused %v, want neither", len(out.declared), out.aside.Counts)
		}
	}
}

func TestAReportWithoutPartsSaysThatTheSidecarLives(t *testing.T) {
	got := carry(t, newEncoder(), newDecoder(openRegistry()), Message{Report: &merge.Report{LHM: 1}}, ms(5), ms(5))
	if len(got) != 1 || got[0].report == nil || got[0].report.LHM != 1 {
		t.Fatalf("got %+v, want one report with lhm 1", got)
	}
	if got := newEncoder().encode(Message{}, ms(5)); len(got) != 0 {
		t.Errorf("an empty message: got %d on the wire, want none", len(got))
	}
}

func TestALargeMessageIsSplitAndNothingIsLost(t *testing.T) {
	reg := registry{sent: map[string]bool{strings.Repeat("s", maxName): true}}
	m := Message{Report: &merge.Report{}}
	for i := range 3000 {
		name := strings.Repeat("i", maxName-8) + strconv.Itoa(10_000_000+i)
		m.Report.Cells = append(m.Report.Cells, merge.Cell{
			Key:     merge.Key{Service: strings.Repeat("s", maxName), Instance: name},
			Counts:  outlier.Counts{N: math.MaxUint32, Conn: math.MaxUint32, Timeout: math.MaxUint32, Server: math.MaxUint32, Over: math.MaxUint32, Cens: math.MaxUint32, N90: math.MaxUint32, N99: math.MaxUint32},
			Overdue: 1 << 20, LastOK: time.Hour, LastOKStart: time.Hour, LastHard: time.Hour, LastHardStart: time.Hour,
			State: outlier.Draining, Witness: outlier.LevelApp, Score: math.MinInt64,
			History: []merge.Point{{At: time.Hour, N: math.MaxUint32, K: math.MaxUint32}, {At: time.Hour, N: math.MaxUint32, K: math.MaxUint32}, {At: time.Hour, N: math.MaxUint32, K: math.MaxUint32}},
		})
	}
	out := carry(t, newEncoder(), newDecoder(reg), m, 2*time.Hour, 2*time.Hour)
	if len(out) < 2 {
		t.Errorf("got %d messages, want several", len(out))
	}
	cells, seqs := 0, map[uint64]bool{}
	for _, o := range out {
		if len(o.aside.Counts) != 0 {
			t.Fatalf("refused: %v", o.aside.Counts)
		}
		cells += len(o.report.Cells)
		seqs[o.report.Seq] = true
	}
	if cells != len(m.Report.Cells) || len(seqs) != len(out) {
		t.Errorf("got %d cells under %d sequence numbers, want %d under %d", cells, len(seqs), len(m.Report.Cells), len(out))
	}
}

func TestAStreamThatRanOutOfNamesSaysTheRest(t *testing.T) {
	e := newEncoder()
	var m Message
	for i := range maxRefs {
		m.Known = append(m.Known, merge.Key{Service: "api", Instance: strconv.Itoa(i)})
	}
	d := newDecoder(openRegistry())
	carry(t, e, d, m, ms(1), ms(1))
	if e.unnamed != 0 {
		t.Errorf("unnamed: got %d, want 0", e.unnamed)
	}
	out := carry(t, e, d, Message{Report: &merge.Report{Cells: []merge.Cell{{Key: db1}, {Key: m.Known[0]}}}}, ms(2), ms(2))
	if e.unnamed != 1 || len(out) != 1 || len(out[0].report.Cells) != 1 {
		t.Errorf("got %d unnamed, %+v, want one of each", e.unnamed, out)
	}
}

func TestHelloArrivesAsItLeft(t *testing.T) {
	want := Hello{
		Node: "sidecar-1", Region: "r", Zone: "a", Labels: map[string]string{"node": "n1"},
		Own:  []Own{{Key: api1, Age: ms(1500)}},
		Held: []merge.Verdict{{Key: api2, State: outlier.Ejected, Epoch: 7, Rule: outlier.RuleHard, RampFrom: 0.25}},
	}
	got, incarnation, why := decodeHello(encodeHello(want, 42, ms(3)).GetHello())
	if why != "" || incarnation != 42 {
		t.Fatalf("got incarnation %d, refusal %q", incarnation, why)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("hello (-want +got):\n%s", diff)
	}
}

func TestAHelloFitsIntoOneMessage(t *testing.T) {
	var h Hello
	for i := range maxRefs {
		h.Held = append(h.Held, merge.Verdict{Key: merge.Key{Service: "api", Instance: strconv.Itoa(i)}, Epoch: math.MaxUint64, State: outlier.Draining, RampFrom: 1})
	}
	up := encodeHello(h, math.MaxUint64, time.Hour)
	if size := proto.Size(up); size > maxMessage {
		t.Errorf("got %d bytes, want at most %d", size, maxMessage)
	}
	if got := up.GetHello().GetHeld(); len(got) == 0 || got[0].GetKey().GetInstance() != "0" {
		t.Errorf("got %d verdicts, want the first ones", len(got))
	}
}

func TestAHelloThatIsRefused(t *testing.T) {
	good := func() *reportpb.Hello {
		return &reportpb.Hello{Version: &reportpb.Version{Major: 1, Minor: 9}, NodeId: "n"}
	}
	long := strings.Repeat("x", maxName+1)
	for _, tc := range []struct {
		name string
		edit func(h *reportpb.Hello)
		want Refusal
	}{
		{"a newer minor version is understood", func(*reportpb.Hello) {}, ""},
		{"another major version", func(h *reportpb.Hello) { h.Version.Major = 2 }, BadVersion},
		{"no version", func(h *reportpb.Hello) { h.Version = nil }, BadVersion},
		{"no node id", func(h *reportpb.Hello) { h.NodeId = "" }, BadHello},
		{"a node id that is too long", func(h *reportpb.Hello) { h.NodeId = long }, TooLarge},
		{"a label that is too long", func(h *reportpb.Hello) { h.Labels = map[string]string{"a": long} }, TooLarge},
		{"too many labels", func(h *reportpb.Hello) {
			h.Labels = map[string]string{}
			for i := range maxLabels + 1 {
				h.Labels[strconv.Itoa(i)] = ""
			}
		}, TooLarge},
		{"too many own instances", func(h *reportpb.Hello) { h.Own = make([]*reportpb.OwnInstance, maxOwn+1) }, TooLarge},
		{"parts that name nothing are left out", func(h *reportpb.Hello) {
			h.Own = make([]*reportpb.OwnInstance, 1)
			h.Held = []*reportpb.HeldVerdict{{}, {Key: encodeKey(api1), RampFrom: math.NaN()}}
		}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := good()
			tc.edit(p)
			h, _, why := decodeHello(p)
			if why != tc.want {
				t.Errorf("got %q, want %q", why, tc.want)
			}
			if len(h.Own)+len(h.Held) != 0 {
				t.Errorf("got %d own instances and %d verdicts, want none", len(h.Own), len(h.Held))
			}
		})
	}
	if _, _, why := decodeHello(nil); why != BadHello {
		t.Errorf("no hello at all: got %q, want %q", why, BadHello)
	}
}

func TestWhatAReporterMayNotSayHasNoEffect(t *testing.T) {
	declare := func(ref uint32, k merge.Key) *reportpb.Declare {
		return &reportpb.Declare{Ref: ref, Key: encodeKey(k)}
	}
	foreign := merge.Key{Service: "foreign", Instance: "x"}
	for _, tc := range []struct {
		name string
		up   *reportpb.Up
		want map[Refusal]int
	}{
		{"a second hello", &reportpb.Up{Hello: &reportpb.Hello{}}, map[Refusal]int{BadHello: 1}},
		{"no time", &reportpb.Up{MonoMs: -5, Report: &reportpb.Report{}}, map[Refusal]int{BadTime: 1}},
		{"a time that would turn over", &reportpb.Up{MonoMs: math.MaxInt64, Report: &reportpb.Report{}}, map[Refusal]int{BadTime: 1}},
		{"name 0", &reportpb.Up{Declare: []*reportpb.Declare{declare(0, db1)}}, map[Refusal]int{BadRef: 1}},
		{"a name beyond the bound", &reportpb.Up{Declare: []*reportpb.Declare{declare(maxRefs+1, db1), declare(math.MaxUint32, db1)}}, map[Refusal]int{BadRef: 2}},
		{"a name given twice", &reportpb.Up{Declare: []*reportpb.Declare{declare(1, db1)}}, map[Refusal]int{BadRef: 1}},
		{"a name for nothing", &reportpb.Up{Declare: []*reportpb.Declare{declare(5, merge.Key{}), {Ref: 6}}}, map[Refusal]int{TooLarge: 2}},
		{"names nobody declared", &reportpb.Up{
			ProbeResults:     []*reportpb.ProbeResult{{Ref: 77}},
			PollAnswers:      []*reportpb.PollAnswer{{}},
			ProbationResults: []*reportpb.ProbationResult{{Ref: math.MaxUint32}},
			Report:           &reportpb.Report{Endpoints: []*reportpb.EndpointReport{{Ref: 3}}},
		}, map[Refusal]int{UnknownRef: 4}},
		{"a service that was not sent", &reportpb.Up{
			Declare:      []*reportpb.Declare{declare(2, foreign)},
			ProbeResults: []*reportpb.ProbeResult{{Ref: 2}},
			Report: &reportpb.Report{
				Endpoints: []*reportpb.EndpointReport{{Ref: 2}},
				Clusters:  []*reportpb.ClusterReport{{Service: "foreign"}},
			},
		}, map[Refusal]int{NotSent: 3}},
		{"somebody else's instance", &reportpb.Up{Report: &reportpb.Report{Own: []*reportpb.OwnReport{{Key: encodeKey(api2)}}}}, map[Refusal]int{NotOwner: 1}},
		{"parts that exceed their whole", &reportpb.Up{
			ProbationResults: []*reportpb.ProbationResult{{Ref: 1, Counts: &reportpb.Counts{N: 1, Conn: math.MaxUint32, Server: 2}}},
			Report: &reportpb.Report{
				Clusters: []*reportpb.ClusterReport{{Service: "api", N: 1, K: 2}},
				Own:      []*reportpb.OwnReport{{Key: encodeKey(api1), N: 1, K: 2}, {Key: encodeKey(api1), N: 5, K: 2, KRelayed: 3}},
			},
		}, map[Refusal]int{BadCounts: 4}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDecoder(openRegistry())
			first := d.decode(&reportpb.Up{MonoMs: 1, Declare: []*reportpb.Declare{declare(1, api1)}}, ms(1))
			if len(first.aside.Counts) != 0 {
				t.Fatalf("the declaration was refused: %v", first.aside.Counts)
			}
			if tc.up.MonoMs == 0 {
				tc.up.MonoMs = 1000
			}
			out := d.decode(tc.up, ms(1000))
			if diff := cmp.Diff(tc.want, out.aside.Counts); diff != "" {
				t.Errorf("refused (-want +got):\n%s", diff)
			}
			if len(out.probes)+len(out.polls)+len(out.probations) != 0 {
				t.Errorf("taken over: %+v", out)
			}
			if r := out.report; r != nil && len(r.Cells)+len(r.Clusters)+len(r.Own) != 0 {
				t.Errorf("taken over: %+v", r)
			}
		})
	}
}

func TestAnInstanceBelongsToItsNodeElseToItsAddress(t *testing.T) {
	own := &reportpb.Up{MonoMs: 1, Report: &reportpb.Report{Own: []*reportpb.OwnReport{{Key: encodeKey(api1)}}}}
	for _, tc := range []struct {
		name string
		node string
		addr string
		want bool
	}{
		{"its node", "sidecar-1", "10.9.9.9", true},
		{"another node, from the right address", "sidecar-2", "10.0.0.1", false},
		{"no node, the right address", "", "10.0.0.1", true},
		{"no node, the right address mapped to IPv6", "", "::ffff:10.0.0.1", true},
		{"no node, another address", "", "10.0.0.2", false},
		{"bound to nobody", "", "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := registry{owners: map[merge.Key]string{api1: tc.node}, addrs: map[merge.Key]netip.Addr{}}
			if tc.addr != "" {
				r.addrs[api1] = netip.MustParseAddr(tc.addr)
			}
			out := newDecoder(r).decode(own, ms(1))
			if got := len(out.report.Own) == 1; got != tc.want {
				t.Errorf("accepted: got %v, want %v (refused %v)", got, tc.want, out.aside.Counts)
			}
		})
	}
}

func TestTimesAreMappedToTheTablesClock(t *testing.T) {
	d := newDecoder(openRegistry())
	const ahead = 10 * time.Minute // the table's clock
	d.decode(&reportpb.Up{MonoMs: 5000, Declare: []*reportpb.Declare{{Ref: 1, Key: encodeKey(api1)}}}, ahead+ms(5003))
	// The next message waited 400 ms on its way.
	out := d.decode(&reportpb.Up{MonoMs: 6000, Report: &reportpb.Report{Endpoints: []*reportpb.EndpointReport{{
		Ref: 1, LastOkMs: 4000, LastOkStartMs: 3990, LastHardMs: 9000, LastHardStartMs: 5990,
	}}}}, ahead+ms(6400))
	r := out.report
	if got, want := r.At, ahead+ms(6003); got != want {
		t.Errorf("built at: got %v, want %v: the smallest difference was 3 ms", got, want)
	}
	if got, want := r.Received, ahead+ms(6400); got != want {
		t.Errorf("received: got %v, want %v", got, want)
	}
	want := merge.Cell{
		Key: api1, LastOK: ahead + ms(4003), LastOKStart: ahead + ms(3993),
		LastHard: ahead + ms(6003), LastHardStart: ahead + ms(5993), // later than the message: taken as now
	}
	if diff := cmp.Diff([]merge.Cell{want}, r.Cells, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("cells (-want +got):\n%s", diff)
	}
	if got := out.aside.Counts[BadTime]; got != 1 {
		t.Errorf("refused for their time: got %d, want 1", got)
	}
}

func TestABetterEstimateOfTheClocksIsNoRestart(t *testing.T) {
	d := newDecoder(openRegistry())
	own := func(mono, received int64, age uint64) time.Duration {
		out := d.decode(&reportpb.Up{MonoMs: mono, Report: &reportpb.Report{Own: []*reportpb.OwnReport{{Key: encodeKey(api1), StartAgeMs: age}}}}, ms(received))
		return out.report.Own[0].Started
	}
	first := own(10_000, 20_300, 4000)
	if got := own(11_000, 21_001, 5000); got != first {
		t.Errorf("the same start by a better clock: got %v, want %v", got, first)
	}
	if got, want := own(12_000, 22_001, 500), ms(21_501); got != want {
		t.Errorf("after a restart: got %v, want %v", got, want)
	}
}

func TestOrdersNameOnlyWhatTheStreamHasDeclared(t *testing.T) {
	n := newNames()
	n.ref(api1)
	got := decodeOrders(&reportpb.Down{
		Probes: []*reportpb.ProbeOrder{
			{Order: 1, Ref: 1, Level: reportpb.Level_LEVEL_APP, Ping: reportpb.Ping_PING_HTTP, TimeoutMs: 250, Epoch: 3, Reason: "suspicion"},
			{Order: 2, Ref: 2}, {Order: 3, Ref: 0},
		},
		Cancels: []uint64{4},
		Polls:   []*reportpb.Poll{{Poll: 5, Ref: 1, ThenMs: 900}, {Poll: 6, Ref: 9}},
		Leases:  []*reportpb.PingLease{{Lease: 7, Ref: 1, Ping: reportpb.Ping_PING_TCP, EveryMs: 10_000, PhaseMs: 3, TimeoutMs: 1000, ForMs: 60_000}, {Ref: 8}},
		Watches: []*reportpb.Watch{{Ref: 1, ForMs: 2000}, {Ref: 8}},
		Shares:  []*reportpb.Share{{Ref: 1, Epoch: 3, Weight: 0.5, TrickleMs: 1000, ForMs: 5000}, {Ref: 1, Weight: math.NaN()}, {Ref: 1, Weight: 7}, {Ref: 8}},
		Weights: []*reportpb.Weight{{Ref: 1, Weight: 0.1, ForMs: 30_000, Reason: "slow"}, {Ref: 1, Weight: 0}, {Ref: 1, Weight: math.NaN()}, {Ref: 1, Weight: 2}, {Ref: 8, Weight: 0.1}},
		Settings: []*reportpb.Settings{
			{Service: "api", P50Us: 1000, P90Us: 2000, P99Us: 5000}, {Service: "db"}, {Service: "db", P50Us: 3, P90Us: 2, P99Us: 5},
		},
		Mute: &reportpb.Mute{Reason: "alone", ForMs: 60_000},
	}, n, ms(1000))
	want := Orders{
		Probes:  []merge.ProbeOrder{{ID: 1, Key: api1, Level: outlier.LevelApp, Ping: merge.PingHTTP, Timeout: ms(250), Epoch: 3, Reason: "suspicion"}},
		Cancels: []merge.OrderID{4},
		Polls:   []merge.Poll{{ID: 5, Key: api1, At: ms(900)}},
		Leases:  []merge.PingLease{{ID: 7, Key: api1, Kind: merge.PingTCP, Every: ms(10_000), Phase: ms(3), Timeout: ms(1000), Until: ms(61_000)}},
		Watches: []merge.Watch{{Key: api1, For: ms(2000)}},
		Shares:  []merge.Share{{Key: api1, Epoch: 3, Weight: 0.5, Trickle: ms(1000), For: ms(5000)}},
		Weights: []merge.Weight{{Key: api1, Weight: 0.1, For: ms(30_000), Reason: "slow"}},
		Settings: []merge.Settings{
			{Service: "api", Latency: outlier.Percentiles{P50: ms(1), P90: ms(2), P99: ms(5)}},
		},
		Mute: &merge.Mute{Reason: "alone", Until: ms(61_000)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("orders (-want +got):\n%s", diff)
	}
}

func TestWordsOfANewerVersionClaimNothing(t *testing.T) {
	if got := decodeState(99); got != outlier.In {
		t.Errorf("state: got %v, want in", got)
	}
	if got := decodeRule(99); got != outlier.RuleNone {
		t.Errorf("rule: got %v, want none", got)
	}
	if got := decodeLevel(99); got != outlier.LevelNone {
		t.Errorf("level: got %v, want none", got)
	}
	if got := decodeResult(99); got != outlier.NotRun {
		t.Errorf("result: got %v, want not_run", got)
	}
	if got := decodePing(99); got != merge.PingOff {
		t.Errorf("ping: got %v, want off", got)
	}
}

// The numbers of the wire are fixed; those of outlier may be put in another order one
// day. The names show it.
func TestTheWordsOfTheWireAreThoseOfOutlier(t *testing.T) {
	word := func(prefix, name string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }
	for s := outlier.In; s <= outlier.Draining; s++ {
		if got, want := word("STATE_", encodeState(s).String()), s.String(); got != want || decodeState(encodeState(s)) != s {
			t.Errorf("state %v: got %q on the wire", want, got)
		}
	}
	for r := outlier.RuleHard; r <= outlier.RuleManual; r++ {
		if got, want := word("RULE_", encodeRule(r).String()), r.String(); got != want || decodeRule(encodeRule(r)) != r {
			t.Errorf("rule %v: got %q on the wire", want, got)
		}
	}
	for l := outlier.LevelConnect; l <= outlier.LevelApp; l++ {
		if got, want := word("LEVEL_", encodeLevel(l).String()), l.String(); got != want || decodeLevel(encodeLevel(l)) != l {
			t.Errorf("level %v: got %q on the wire", want, got)
		}
	}
	for r := outlier.NotRun; r <= outlier.Unhealthy; r++ {
		got := word("PROBE_OUTCOME_", encodeResult(r).String())
		want := map[outlier.ProbeResult]string{outlier.ProbeOK: "ok", outlier.TLSFailed: "tls_failed", outlier.TimedOut: "timed_out"}[r]
		if want == "" {
			want = r.String()
		}
		if got != want || decodeResult(encodeResult(r)) != r {
			t.Errorf("result %v: got %q on the wire", want, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	e := newEncoder()
	for _, up := range e.encode(everything(), ms(1000)) {
		b, _ := proto.Marshal(up)
		f.Add(b, int64(1000))
	}
	b, _ := proto.Marshal(encodeHello(Hello{Node: "n", Own: []Own{{Key: api1}}}, 1, ms(1)))
	f.Add(b, int64(0))
	f.Fuzz(func(t *testing.T, b []byte, at int64) {
		var up reportpb.Up
		if proto.Unmarshal(b, &up) != nil {
			return
		}
		received := ms(at % (1 << 40)).Abs()
		decodeHello(up.GetHello())
		d := newDecoder(openRegistry())
		for range 2 {
			out := d.decode(&up, received)
			r := out.report
			if r == nil {
				continue
			}
			if r.At > received {
				t.Errorf("a report of the future: built at %v, received at %v", r.At, received)
			}
			if r.LHM < 0 || r.LHM > 7 {
				t.Errorf("lhm %d", r.LHM)
			}
			for _, c := range r.Cells {
				if c.LastOK > r.At || c.LastHard > r.At || c.LastOKStart > c.LastOK || c.LastHardStart > c.LastHard {
					t.Errorf("a cell of the future: %+v in a report of %v", c, r.At)
				}
				if len(c.History) > maxHistory {
					t.Errorf("%d points of history", len(c.History))
				}
				if _, ok := decodeKey(encodeKey(c.Key)); !ok {
					t.Errorf("a cell about %q", c.Key)
				}
			}
		}
	})
}

func FuzzDecodeOrders(f *testing.F) {
	b, _ := proto.Marshal(&reportpb.Down{
		Probes: []*reportpb.ProbeOrder{{Order: 1, Ref: 1}}, Shares: []*reportpb.Share{{Ref: 1, Weight: 0.1, ForMs: 5000}},
		Leases: []*reportpb.PingLease{{Ref: 1, ForMs: math.MaxUint32}}, Polls: []*reportpb.Poll{{Ref: 1, ThenMs: -1}},
	})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var down reportpb.Down
		if proto.Unmarshal(b, &down) != nil {
			return
		}
		n := newNames()
		n.ref(api1)
		o := decodeOrders(&down, n, ms(1000))
		for _, s := range o.Shares {
			if s.Key != api1 || !(s.Weight >= 0 && s.Weight <= 1) || s.For < 0 {
				t.Errorf("share: %+v", s)
			}
		}
		for _, l := range o.Leases {
			if l.Key != api1 || l.Until < ms(1000) {
				t.Errorf("lease: %+v", l)
			}
		}
	})
}
