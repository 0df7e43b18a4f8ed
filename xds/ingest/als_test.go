package ingest

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/overhear-mesh/overhear/outlier"
)

var (
	connectFailed = &accesslogv3.ResponseFlags{UpstreamConnectionFailure: true}
	cut           = &accesslogv3.ResponseFlags{UpstreamConnectionTermination: true}
	tooLate       = &accesslogv3.ResponseFlags{UpstreamRequestTimeout: true}
)

// attempt is a record of an attempt at an endpoint of api.
func attempt(i int, flags *accesslogv3.ResponseFlags, code uint32) *accesslogv3.HTTPAccessLogEntry {
	e := &accesslogv3.HTTPAccessLogEntry{
		CommonProperties: &accesslogv3.AccessLogCommon{UpstreamCluster: "api", UpstreamRemoteAddress: row(i, sample{}).Address, ResponseFlags: flags},
		Response:         &accesslogv3.HTTPResponseProperties{},
	}
	if code > 0 {
		e.Response.ResponseCode = wrapperspb.UInt32(code)
	}
	return e
}

func log(records ...*accesslogv3.HTTPAccessLogEntry) *alsv3.StreamAccessLogsMessage {
	return &alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{
		HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: records},
	}}
}

func TestARecordSaysHowAnAttemptFailed(t *testing.T) {
	conn, timeout, server := kinds{conn: 1}, kinds{timeout: 1}, kinds{server: 1}
	for _, tc := range []struct {
		name  string
		flags *accesslogv3.ResponseFlags
		code  uint32
		want  kinds
	}{
		{"no connection", connectFailed, 0, conn},
		{"no connection, as the client is told", connectFailed, 503, conn},
		{"a connection that ended before the answer", cut, 0, conn},
		{"an answer that broke off", cut, 200, server},
		{"one stream that was reset", &accesslogv3.ResponseFlags{UpstreamRemoteReset: true}, 0, server},
		{"a time-out of one attempt", tooLate, 0, timeout},
		{"an error", nil, 500, server},
		{"an answer", nil, 200, kinds{}},
		{"no news: a route's time-out, or a client that went away", nil, 0, kinds{}},
		{"what the Envoy ended itself", &accesslogv3.ResponseFlags{LocalReset: true}, 0, kinds{}},
		{"what it did not begin", &accesslogv3.ResponseFlags{UpstreamOverflow: true}, 0, kinds{}},
		{"a status that there is not", nil, 4_000_000_000, kinds{}},
	} {
		if got := kindOf(attempt(1, tc.flags, tc.code)); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

// logging is a talk with a log beside it.
func logging(t *testing.T) (*talk, func(...*accesslogv3.HTTPAccessLogEntry)) {
	k := newTalk(t, services(3))
	k.logs = new(logged)
	k.api(row(1, sample{ok: 1, issued: 1}))
	return k, func(records ...*accesslogv3.HTTPAccessLogEntry) { k.logs.add(records) }
}

func TestALogTellsFailuresApartAndAddsNone(t *testing.T) {
	k, tell := logging(t)
	tell(attempt(1, cut, 0), attempt(1, tooLate, 0), attempt(1, nil, 500), attempt(2, cut, 0))
	r := k.api(row(1, sample{ok: 2, failed: 4, issued: 6}))
	got := cell(r, api1)
	if want := (outlier.Counts{N: 7, Conn: 1, Timeout: 1, Server: 2}); got.Counts != want {
		t.Errorf("counts %+v, want %+v: load reports say how many", got.Counts, want)
	}
	if got.LastHard != k.now || got.LastHardStart != k.now-ms(100) {
		t.Errorf("hard from %v to %v, want the interval that ends at %v", got.LastHardStart, got.LastHard, k.now)
	}
	if got.Witness != outlier.LevelNone {
		t.Errorf("witness of %v beside a success, want none", got.Witness)
	}
}

func TestARefusedConnectionIsOneFailureWhicheverTellsOfIt(t *testing.T) {
	k, tell := logging(t)
	tell(attempt(1, connectFailed, 0))
	got := cell(k.api(row(1, sample{failed: 1})), api1) // no request was issued: LRS knows as well
	if want := (outlier.Counts{N: 2, Conn: 1}); got.Counts != want {
		t.Errorf("counts %+v, want %+v", got.Counts, want)
	}
}

func TestARecordThatComesLateDatesTheFailureThatWasCounted(t *testing.T) {
	k, tell := logging(t)
	counted := k.api(row(1, sample{failed: 1, issued: 1}))
	at := k.now
	if c := cell(counted, api1); c.LastHard != never || c.Counts.Server != 1 {
		t.Fatalf("before its record a failure is %+v, want of no known kind", c)
	}
	tell(attempt(1, cut, 0))
	got := cell(k.api(row(1, sample{failed: 1, issued: 1})), api1)
	if got.LastHard != at || got.Counts.Server != 2 || got.Counts.Conn != 0 {
		t.Errorf("hard at %v, counts %+v, want %v and two of class server: the record is that of the first", got.LastHard, got.Counts, at)
	}
}

func TestARecordOfNoFailureIsSetAside(t *testing.T) {
	k, tell := logging(t)
	tell(attempt(1, cut, 0), attempt(1, cut, 0))
	k.api(row(1, sample{ok: 1, issued: 1}))
	if n := k.refused.Counts[NotCounted]; n != 0 {
		t.Fatalf("%d records are set aside at once, want them to wait for one load report", n)
	}
	got := cell(k.api(row(1, sample{ok: 1, failed: 1, issued: 2})), api1)
	if n := k.refused.Counts[NotCounted]; n != 1 || got.Counts.Conn != 1 {
		t.Errorf("%d set aside, counts %+v, want one of each: the other found its failure", n, got.Counts)
	}
	got = cell(k.api(row(1, sample{failed: 1, issued: 1})), api1)
	if got.Counts.Conn != 1 || got.Counts.Server != 1 {
		t.Errorf("counts %+v, want a failure that no record is about", got.Counts)
	}
}

func TestRecordsAboutStrangersAreCountedAndLeftOut(t *testing.T) {
	k, tell := logging(t)
	stranger, elsewhere := attempt(1, cut, 0), attempt(9, cut, 0)
	stranger.CommonProperties.UpstreamCluster = "shop"
	tell(stranger, elsewhere)
	k.api(row(1, sample{failed: 1, issued: 1}))
	if k.refused.Counts[UnknownCluster] != 1 || k.refused.Counts[UnknownEndpoint] != 1 {
		t.Errorf("refused %v, want one of an unknown cluster and one of an unknown endpoint", k.refused.Counts)
	}
	nowhere := attempt(1, cut, 0)
	nowhere.CommonProperties.UpstreamRemoteAddress = &corev3.Address{}
	if silent, _ := k.logs.add([]*accesslogv3.HTTPAccessLogEntry{nowhere, {}, nil}); silent != 3 {
		t.Errorf("%d records say nothing, want all 3", silent)
	}
}

func TestALogOfManyEndpointsIsBounded(t *testing.T) {
	var l logged
	var all []*accesslogv3.HTTPAccessLogEntry
	for i := range mostKinds + 7 {
		all = append(all, attempt(i, cut, 0))
	}
	if _, dropped := l.add(all); dropped != 7 {
		t.Errorf("%d dropped, want 7", dropped)
	}
	if n := len(l.drain()); n != mostKinds {
		t.Errorf("%d kept, want %d", n, mostKinds)
	}
}

// logs opens a log of an Envoy.
func (w *world) logs(ip string, n *corev3.Node) alsv3.AccessLogService_StreamAccessLogsClient {
	w.t.Helper()
	s, err := alsv3.NewAccessLogServiceClient(dial(w.t, w.net, ip)).StreamAccessLogs(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if n != nil {
		m := log(attempt(1, cut, 0))
		m.Identifier = &alsv3.StreamAccessLogsMessage_Identifier{Node: n, LogName: "upstream"}
		if err := s.Send(m); err != nil {
			w.t.Fatal(err)
		}
	}
	return s
}

func TestALogBelongsToTheLoadReportsOfItsEnvoy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 64)
		log1 := w.logs("10.2.0.1", node("envoy-1"))
		synctest.Wait()
		if n := w.Stats().Refused[NoLoadReports]; n != 1 {
			t.Errorf("%d records refused before there are load reports, want 1", n)
		}
		s := w.envoy("10.2.0.1", "envoy-1")
		synctest.Wait()
		w.send(s, request(load("api", ms(100), row(1, sample{ok: 1, issued: 1}))))
		synctest.Wait()
		time.Sleep(ms(100))
		if err := log1.Send(log(attempt(1, cut, 0))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.send(s, request(load("api", ms(100), row(1, sample{failed: 1, issued: 1}))))
		synctest.Wait()
		if len(w.sink.joined) != 1 || w.Stats().Streams != 1 {
			t.Errorf("%d reporters joined, want the one Envoy", len(w.sink.joined))
		}
		last := w.sink.reports[len(w.sink.reports)-1]
		if c := cell(last, api1); c.Counts.Conn != 1 || c.Counts.N != 2 || c.Witness != outlier.LevelConnect {
			t.Errorf("cell %+v, want a hard failure among two attempts", c)
		}
		if st := w.Stats(); st.Records != 1 {
			t.Errorf("%d records, want 1", st.Records)
		}
	})
}

func TestALogOfAnotherPrincipalEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 64)
		w.envoy("10.2.0.1", "envoy-1")
		synctest.Wait()
		_, err := w.logs("10.2.0.2", node("envoy-1")).CloseAndRecv()
		if status.Code(err) != codes.PermissionDenied || w.Stats().Refused[ForeignReporter] != 1 {
			t.Errorf("it ended with %v, refused %v, want PermissionDenied", err, w.Stats().Refused)
		}
	})
}

func TestLogsThatCannotBeTakenEndWithAReason(t *testing.T) {
	for _, tc := range []struct {
		name string
		node *corev3.Node
		code codes.Code
		why  Refusal
	}{
		{"that say nothing", nil, codes.DeadlineExceeded, BadNode},
		{"of nobody", &corev3.Node{}, codes.InvalidArgument, BadNode},
		{"of a name without end", node(strings.Repeat("x", 2049)), codes.InvalidArgument, BadNode},
		{"of a zone without end", &corev3.Node{Id: "envoy-1", UserAgentName: "envoy", Locality: &corev3.Locality{Zone: strings.Repeat("x", 2049)}}, codes.InvalidArgument, BadNode},
		{"of no Envoy", &corev3.Node{Id: "grpc-1", UserAgentName: "gRPC Go"}, codes.PermissionDenied, NotEnvoy},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 64)
				err := w.logs("10.2.0.1", tc.node).RecvMsg(new(alsv3.StreamAccessLogsResponse))
				if status.Code(err) != tc.code || w.Stats().Refused[tc.why] != 1 {
					t.Errorf("it ended with %v, refused %v, want %s for %s", err, w.Stats().Refused, tc.code, tc.why)
				}
			})
		})
	}
}

func TestAnEnvoyHasOnlySoManyLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 64)
		w.envoy("10.2.0.1", "envoy-1")
		synctest.Wait()
		first := w.logs("10.2.0.1", node("envoy-1"))
		for range logsPerReporter - 1 {
			w.logs("10.2.0.1", node("envoy-1"))
		}
		synctest.Wait()
		if _, err := w.logs("10.2.0.1", node("envoy-1")).CloseAndRecv(); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("one log too many ended with %v, want ResourceExhausted", err)
		}
		if err := first.CloseSend(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		again := w.logs("10.2.0.1", node("envoy-1"))
		synctest.Wait()
		if again.Context().Err() != nil || w.Stats().Refused[TooManyStreams] != 1 {
			t.Errorf("where one has left another is refused: %v", w.Stats().Refused)
		}
	})
}

func TestALogThatSendsTooMuchIsReadMoreSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 64)
		w.envoy("10.2.0.1", "envoy-1")
		synctest.Wait()
		s := w.logs("10.2.0.1", node("envoy-1"))
		for range 2 * logBurst {
			if err := s.Send(log(attempt(1, cut, 0))); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if st := w.Stats(); st.Records > logBurst+3 || st.Throttled == 0 {
			t.Errorf("%d records were read at once, want some %d", st.Records, logBurst)
		}
		time.Sleep(10 * second)
		if st := w.Stats(); st.Records != 2*logBurst+1 {
			t.Errorf("%d records were read in the end, want all", st.Records)
		}
	})
}

func FuzzLogsExplainOnlyWhatIsCounted(f *testing.F) {
	seed := func(load byte, records ...*accesslogv3.HTTPAccessLogEntry) {
		b, err := proto.Marshal(log(records...))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append([]byte{load}, b...), uint8(3))
	}
	seed(3, attempt(1, cut, 0), attempt(1, nil, 500))
	seed(0, attempt(2, tooLate, 504))
	f.Fuzz(func(t *testing.T, data []byte, reports uint8) {
		if len(data) == 0 {
			return
		}
		m := new(alsv3.StreamAccessLogsMessage)
		if proto.Unmarshal(data[1:], m) != nil {
			return
		}
		k, tell := logging(t)
		last := outlier.Counts{}
		for range reports % 16 {
			tell(m.GetHttpLogs().GetLogEntry()...)
			failed := uint64(data[0] % 8)
			c := cell(k.api(row(1, sample{ok: 1, failed: failed, issued: 1 + failed/2})), api1)
			d := c.Counts.Sub(last)
			if last != (outlier.Counts{}) && (uint64(d.K()) != failed || uint64(d.N) != failed+1 || d.Over+d.Cens != 0) {
				t.Fatalf("a load report of %d failures makes %+v", failed, d)
			}
			if c.LastHardStart > c.LastHard || c.LastHard > k.now {
				t.Fatalf("hard from %v to %v at %v", c.LastHardStart, c.LastHard, k.now)
			}
			last = c.Counts
		}
	})
}
