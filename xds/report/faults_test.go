package report

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/reportpb"
)

// warnings are the lines of the collector that warn, since it was asked last.
func (w *world) warnings() (all []string) {
	w.t.Helper()
	synctest.Wait()
	for line := range strings.Lines(w.lines.String()) {
		if strings.Contains(line, "level=WARN") {
			all = append(all, line)
		}
	}
	w.lines.Reset()
	return all
}

// wantWarnings checks that there are these, by what each says.
func (w *world) wantWarnings(want ...[]string) {
	w.t.Helper()
	all := w.warnings()
	if len(all) != len(want) {
		w.t.Fatalf("%d warnings, want %d: %q", len(all), len(want), all)
	}
	for i, line := range all {
		for _, part := range want[i] {
			if !strings.Contains(line, part) {
				w.t.Errorf("the warning is %q, want %q in it", line, part)
			}
		}
	}
}

func TestWhatIsSetAsideOfAReporterIsCountedForItAndExplainedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		good, bad := w.join("10.0.0.1", "sidecar-1", 1), w.raw("10.0.0.2")
		say(t, bad, encodeHello(Hello{Node: "sidecar-2", Own: []Own{{Key: api1}, {Key: api2}}}, 1, ms(1)))
		for i := range int64(3) {
			time.Sleep(ms(100))
			say(t, good, &reportpb.Up{MonoMs: 1000 + 100*i, Report: &reportpb.Report{Clusters: []*reportpb.ClusterReport{{Service: "api", N: 1}}}})
			say(t, bad, &reportpb.Up{MonoMs: 1000 + 100*i, Report: &reportpb.Report{
				Clusters: []*reportpb.ClusterReport{{Service: "api", N: 1}, {Service: "aip", N: 1}, {Service: "apii", N: 1}},
			}})
			synctest.Wait()
		}
		if got := w.collector.Refusals("sidecar-1"); got.Counts != nil || got.Newest != "" {
			t.Errorf("of who says nothing wrong %+v was refused", got)
		}
		want := Refusals{Counts: map[Refusal]uint64{NotOwner: 1, NotSent: 6}, Newest: `not_sent: xDS has sent it no service "aip"`, At: time.Now()}
		if diff := cmp.Diff(want, w.collector.Refusals("sidecar-2")); diff != "" {
			t.Errorf("refused (-want +got):\n%s", diff)
		}
		wantRefused(t, w, want.Counts)
		w.wantWarnings(
			[]string{"what a reporter says is set aside", "reporter=sidecar-2", "reason=not_owner", "beside " + api1.String()},
			[]string{"what a reporter says is set aside", "reporter=sidecar-2", "reason=not_sent", `\"aip\"`},
		)
	})
}

func TestTheLastCountsOfAServiceThatHasGoneAreNoFault(t *testing.T) {
	reg := openRegistry()
	d := newDecoder(reg)
	up := &reportpb.Up{MonoMs: 1, Report: &reportpb.Report{Clusters: []*reportpb.ClusterReport{{Service: "api", N: 1}}}}
	d.decode(up, ms(1))
	delete(reg.sent, "api")
	delete(reg.sent, "db")
	up.Report.Clusters = append(up.Report.Clusters, &reportpb.ClusterReport{Service: "db", N: 1})
	for _, tc := range []struct {
		up   *reportpb.Up
		want []Refusal
	}{
		{up, []Refusal{NotSent}},
		{&reportpb.Up{MonoMs: 2, Report: &reportpb.Report{Clusters: up.Report.Clusters[:1]}}, nil},
	} {
		out := d.decode(tc.up, ms(2))
		if got := new(refusals).add(&out.aside, time.Now()); !slices.Equal(got, tc.want) || out.aside.Counts[NotSent] != len(tc.up.Report.Clusters) {
			t.Errorf("faults %v of %v, want %v", got, out.aside.Counts, tc.want)
		}
	}
}

func TestAReportStreamThatIsNotTakenIsExplained(t *testing.T) {
	first := func(up *reportpb.Up) func(*world) reportpb.EvidenceService_StreamClient {
		return func(w *world) reportpb.EvidenceService_StreamClient {
			s := w.raw("10.0.0.2")
			if up != nil {
				say(w.t, s, up)
			}
			return s
		}
	}
	version := hello("sidecar-1", 1)
	version.Hello.Version.Major = 9
	for _, tc := range []struct {
		name string
		say  func(*world) reportpb.EvidenceService_StreamClient
		join error // of the sink
		code codes.Code
		why  Refusal
		says string
	}{
		{"no hello", first(nil), nil, codes.DeadlineExceeded, BadHello, "no hello within 10s"},
		{"another version", first(version), nil, codes.Unimplemented, BadVersion, "want version"},
		{"the id of another", first(hello("sidecar-0", 1)), nil, codes.PermissionDenied, ForeignReporter, `\"sidecar-0\" reports from elsewhere`},
		{"a sink that takes it for another", first(hello("sidecar-1", 1)), errors.New("not you"), codes.FailedPrecondition, ForeignReporter, "not you"},
		{"a life before this one", first(hello("sidecar-1", 1)), fmt.Errorf("reporter: %w", merge.ErrIncarnation), codes.FailedPrecondition, OldIncarnation, merge.ErrIncarnation.Error()},
		{"a message that is too large", func(w *world) reportpb.EvidenceService_StreamClient {
			s := w.join("10.0.0.2", "sidecar-1", 1)
			say(w.t, s, &reportpb.Up{MonoMs: 2, Report: &reportpb.Report{Clusters: []*reportpb.ClusterReport{{Service: strings.Repeat("x", maxMessage)}}}})
			return s
		}, nil, codes.ResourceExhausted, TooLarge, "exceeds"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.join("10.0.0.1", "sidecar-0", 1)
				w.sink.refuse = tc.join
				for range 3 { // in a loop
					wantEnd(t, tc.say(w), tc.code)
				}
				wantRefused(t, w, map[Refusal]uint64{tc.why: 3})
				if tc.code == codes.DeadlineExceeded { // ten seconds each
					w.wantWarnings([]string{tc.says}, []string{tc.says}, []string{tc.says})
				} else {
					w.wantWarnings([]string{"a reporter's stream was ended", "principal=10.0.0.2", "code=" + tc.code.String(), tc.says})
				}
			})
		})
	}
}

func TestAReportStreamThatEndsInOrderIsNoFault(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		replaced := w.join("10.0.0.1", "sidecar-1", 1)
		closed := w.join("10.0.0.1", "sidecar-1", 2)
		wantEnd(t, replaced, codes.Aborted)
		w.sink.stream().Close("leaving")
		wantEnd(t, closed, codes.Unavailable)
		done := w.join("10.0.0.1", "sidecar-1", 2)
		if err := done.CloseSend(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		cc := w.dial("10.0.0.1")
		gone, err := reportpb.NewEvidenceServiceClient(cc).Stream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		say(t, gone, hello("sidecar-1", 2))
		synctest.Wait()
		cc.Close()
		synctest.Wait()
		w.sink.refuse = status.Error(codes.Unavailable, "we are closing")
		late := w.raw("10.0.0.1")
		say(t, late, hello("sidecar-1", 3))
		wantEnd(t, late, codes.Unavailable)
		wantRefused(t, w, nil)
		w.wantWarnings()
	})
}
