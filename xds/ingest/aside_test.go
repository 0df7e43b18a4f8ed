package ingest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	healthv3 "github.com/envoyproxy/go-control-plane/envoy/service/health/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
)

// lines are those of that level that say something.
func lines(text, level, says string) (found []string) {
	for line := range strings.Lines(text) {
		if strings.Contains(line, "level="+level) && strings.Contains(line, says) {
			found = append(found, line)
		}
	}
	return found
}

// wantLine checks that there is one warning, which says all of that.
func wantLine(t *testing.T, text string, parts ...string) {
	t.Helper()
	all := lines(text, "WARN", "")
	if len(all) != 1 {
		t.Fatalf("%d warnings, want one: %q", len(all), all)
	}
	for _, part := range parts {
		if !strings.Contains(all[0], part) {
			t.Errorf("the warning is %q, want %q in it", all[0], part)
		}
	}
}

func TestWhatIsSetAsideOfALoadReportIsCountedForItsEnvoyAndExplainedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 64)
		good, bad := w.envoy("10.2.0.1", "envoy-1"), w.envoy("10.2.0.2", "envoy-2")
		for range 3 {
			time.Sleep(ms(100))
			w.send(good, request(load("api", ms(100), row(1, sample{ok: 1, issued: 1}))))
			w.send(bad, request(load("api", ms(100), row(1, sample{ok: 1, issued: 1}), row(9, sample{ok: 1, issued: 1}), row(8, sample{ok: 1, issued: 1}))))
			synctest.Wait()
			time.Sleep(time.Minute) // once on the stream, and not once in a while
		}
		if got := w.Refusals("envoy-1"); got.Counts != nil || got.Newest != "" {
			t.Errorf("of who says nothing wrong %+v was refused", got)
		}
		got := w.Refusals("envoy-2")
		if diff := cmp.Diff(map[Refusal]uint64{UnknownEndpoint: 6}, got.Counts); diff != "" {
			t.Errorf("refused (-want +got):\n%s", diff)
		}
		if want := `unknown_endpoint: 10.0.0.10:80 is no endpoint of service "api"`; got.Newest != want || !got.At.Equal(time.Now().Add(-time.Minute)) {
			t.Errorf("newest %q of %v, want %q of a minute ago", got.Newest, got.At, want)
		}
		wantLine(t, w.log.String(), "reporter=envoy-2", "reason=unknown_endpoint", `10.0.0.10:80 is no endpoint of service \"api\"`)
		w.log.Reset()
		w.send(bad, request(load("api", 0, row(1, sample{ok: 1}))))
		synctest.Wait()
		wantLine(t, w.log.String(), "reporter=envoy-2", "reason=bad_interval", "load_report_interval is 0")
	})
}

// The report that follows the end of an endpoint speaks of it once more.
func TestAnEndpointThatHasJustLeftIsNoStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 64)
		began := w.now()
		known := services(5)
		api := known["api"]
		api.Former = map[netip.AddrPort]time.Duration{netip.AddrPortFrom(netip.MustParseAddr(host(9)), 80): began}
		known["api"], w.directory = api, known
		s := w.envoy("10.2.0.1", "envoy-1")
		logs := w.logs("10.2.0.1", node("envoy-1"))
		say := func() {
			t.Helper()
			if err := logs.Send(log(attempt(9, cut, 0))); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			w.send(s, request(load("api", ms(100), row(9, sample{failed: 1, issued: 1}))))
			synctest.Wait()
		}
		time.Sleep(ms(100))
		w.send(s, request(load("api", ms(100), row(1, sample{ok: 1, issued: 1})))) // by which a log knows the cluster
		synctest.Wait()
		say()
		wrong := func() uint64 { return w.Refusals("envoy-1").Counts[UnknownEndpoint] }
		if n := wrong(); n != 0 || w.Stats().Refused[UnknownEndpoint] != 2 {
			t.Errorf("%d held against the Envoy, in all %v, want none of two", n, w.Stats().Refused)
		}
		time.Sleep(FormerFor - ms(101))
		say()
		if n := wrong(); n != 0 {
			t.Errorf("%d held against the Envoy before the endpoint has been away for %v", n, FormerFor)
		}
		time.Sleep(ms(1))
		say()
		if n := wrong(); n != 2 {
			t.Errorf("%d held against the Envoy long after the endpoint left, want 2", n)
		}
	})
}

// Each Envoy has clusters that are not the mesh's: at least the one that leads here.
func TestClustersThatAreNoServicesAreNamedAndNoFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 64)
		s := w.envoy("10.2.0.1", "envoy-1")
		for range 3 {
			time.Sleep(time.Minute) // once on the stream, and not once in a while
			w.send(s, request(load("overhear", ms(100)), load("aip", ms(100), row(1, sample{ok: 1, issued: 1})), load("aip", ms(100))))
			synctest.Wait()
		}
		if got := w.UnknownClusters("envoy-1"); !slices.Equal(got, []string{"aip", "overhear"}) {
			t.Errorf("got %q, want two unknown clusters", got)
		}
		if got := w.Refusals("envoy-1"); len(got.Counts) > 0 {
			t.Errorf("got %+v, want nothing refused", got)
		}
		if n := w.Stats().Refused[UnknownCluster]; n != 9 {
			t.Errorf("%d refused, want 9: the metric counts them", n)
		}
		if all := lines(w.log.String(), "INFO", "no services of the mesh"); len(all) != 1 || !strings.Contains(all[0], `clusters="[aip overhear]"`) {
			t.Errorf("the log says %q, want one line that names them", all)
		}
		if all := lines(w.log.String(), "WARN", ""); len(all) > 0 {
			t.Errorf("the log warns: %q", all)
		}
	})
}

func TestOfClustersThatAreNoServicesTheFirstAreNamedInShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 64)
		s := w.envoy("10.2.0.1", "envoy-1")
		var all []*endpointv3.ClusterStats
		for i := range 30 {
			all = append(all, load(fmt.Sprintf("c%02d", 29-i)+strings.Repeat("é", 1000), ms(100)))
		}
		w.send(s, request(all...))
		synctest.Wait()
		var want []string
		for i := range 10 {
			want = append(want, fmt.Sprintf("c%02d", i)+strings.Repeat("é", 48)) // 100 bytes are half of one more
		}
		if diff := cmp.Diff(want, w.UnknownClusters("envoy-1")); diff != "" {
			t.Errorf("unknown clusters (-want +got):\n%s", diff)
		}
	})
}

func TestWhatIsSetAsideOfALogIsCountedForItsEnvoy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 64)
		s := w.envoy("10.2.0.1", "envoy-1")
		synctest.Wait()
		w.send(s, request(load("api", ms(100), row(1, sample{ok: 1, issued: 1}))))
		synctest.Wait()
		logs := w.logs("10.2.0.1", node("envoy-1")) // a failure that is not counted
		if err := logs.Send(log(attempt(2, nil, 200), attempt(9, cut, 0))); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			synctest.Wait()
			time.Sleep(ms(100))
			w.send(s, request(load("api", ms(100), row(1, sample{ok: 1, issued: 1}))))
		}
		synctest.Wait()
		if diff := cmp.Diff(map[Refusal]uint64{UnknownEndpoint: 1, NotCounted: 1}, w.Refusals("envoy-1").Counts); diff != "" {
			t.Errorf("refused (-want +got):\n%s", diff)
		}
	})
}

func TestAnEnvoyThatOnlyLogsIsToldOfOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 64)
		s := w.logs("10.2.0.1", node("envoy-1"))
		for range 300 {
			time.Sleep(ms(100))
			if err := s.Send(log(attempt(1, cut, 0))); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		wantLine(t, w.log.String(), "reporter=envoy-1", "no load reports")
	})
}

func TestWhatIsSetAsideOfAPageIsCountedForItsEnvoy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, e := newPolled(t)
		settle(2 * second)
		e.set(func(e *oldEnvoy) { e.hosts[9] = counters{} })
		settle(2 * second)
		if n := w.Refusals("envoy-1").Counts[UnknownEndpoint]; n == 0 {
			t.Errorf("refused %+v, want an unknown endpoint", w.Refusals("envoy-1"))
		}
		wantLine(t, w.log.String(), "reporter=envoy-1", "reason=unknown_endpoint")
	})
}

func TestWhatIsSetAsideOfProbesIsCountedForItsEnvoy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newProbeWorld(t, 8)
		stream := w.stream("10.2.0.1", node("envoy-1"))
		for range 5 {
			if err := stream.Send(&healthv3.HealthCheckRequestOrEndpointHealthResponse{
				RequestType: &healthv3.HealthCheckRequestOrEndpointHealthResponse_EndpointHealthResponse{EndpointHealthResponse: whoever("api", wellAt, 0)},
			}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if diff := cmp.Diff(map[Refusal]uint64{NeverOrdered: 5}, w.Refusals("envoy-1").Counts); diff != "" {
			t.Errorf("refused (-want +got):\n%s", diff)
		}
		wantLine(t, w.log.String(), "reporter=envoy-1", "reason=never_ordered", `a check \"api\" that nobody asked for`)
	})
}

func TestAStreamThatIsNotTakenIsExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 64)
		w.envoy("10.2.0.1", "envoy-1")
		synctest.Wait()
		for range 20 { // in a loop
			if code := ends(w.envoy("10.2.0.2", "envoy-1")); code != codes.PermissionDenied {
				t.Errorf("it ended with %s, want PermissionDenied", code)
			}
		}
		wantLine(t, w.log.String(), "an envoy's stream was ended", "principal=10.2.0.2", "code=PermissionDenied", `\"envoy-1\" reports from elsewhere`)
	})
}

func TestAStreamThatEndsInOrderIsNoFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 64)
		first := w.envoy("10.2.0.1", "envoy-1")
		synctest.Wait()
		time.Sleep(second)
		second := w.envoy("10.2.0.1", "envoy-1") // takes the place of the first
		ends(first)
		if err := second.CloseSend(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if all := lines(w.log.String(), "WARN", ""); len(all) > 0 {
			t.Errorf("the log warns: %q", all)
		}
	})
}
