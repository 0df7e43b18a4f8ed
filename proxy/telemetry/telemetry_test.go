package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/router"
	"github.com/overhear-mesh/overhear/proxy/tcp"
	"github.com/overhear-mesh/overhear/proxy/telemetry"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

func record() *exchange.Record {
	options := upstream.DefaultOptions()
	one := upstream.NewEndpoint("api-1", "10.0.0.1:80", "a", 0, false, nil, nil, &options)
	two := upstream.NewEndpoint("api-2", "10.0.0.2:80", "a", 0, false, nil, nil, &options)
	return &exchange.Record{
		Start: time.Second, Duration: 1500 * time.Microsecond, Client: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5},
		Method: []byte("GET"), Host: []byte("api"), Path: []byte("/a\"b\\c\x01\xff?q=é"), Minor: 1, Status: 200, BodySent: 10,
		Route: &router.Route{ID: 1, Name: "all", ClusterName: "api"}, RequestID: []byte("id-1"),
		Attempts: []exchange.AttemptRecord{
			{Endpoint: one, Duration: 200 * time.Microsecond, Ending: outlier.EndConnectRefused, Class: outlier.Conn},
			{Endpoint: two, Offset: 200 * time.Microsecond, Duration: time.Millisecond, Ending: outlier.EndComplete, Class: outlier.OK, Status: 200},
		},
		Final: 1,
	}
}

func TestALineSaysWhichOfTwoAttemptsWon(t *testing.T) {
	for final, want := range []string{"api-1", "api-2"} {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			log := telemetry.NewAccessLog(&out, clock.New())
			line := record()
			line.Final = final
			line.Attempts[1].Hedge = true
			telemetry.NewRecorder("web", false, log, nil).Log(line)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := log.Run(ctx); err != nil {
				t.Fatal(err)
			}
			var got struct {
				Endpoint string
				Attempts []struct{ Hedge bool }
			}
			if err := json.Unmarshal(out.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if got.Endpoint != want || got.Attempts[0].Hedge || !got.Attempts[1].Hedge {
				t.Errorf("got %+v, want %s, and the second attempt to be a hedge", got, want)
			}
		})
	}
}

func TestARequestIsOneLineOfJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := telemetry.NewAccessLog(&out, clock.New())
		r := telemetry.NewRecorder("web", false, log, nil)
		r.Log(record())
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := log.Run(ctx); err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatalf("%v in %s", err, out.String())
		}
		want := map[string]any{
			"time": "2000-01-01T00:00:01Z", "listener": "web", "direction": "outbound", "protocol": "HTTP/1.1",
			"method": "GET", "host": "api", "path": "/a\"b\\c\x01\uFFFD?q=é", "status": 200.0, "flags": "-", "duration_ms": 1.5,
			"bytes_received": 0.0, "bytes_sent": 10.0, "client": "127.0.0.1:5", "request_id": "id-1", "route": "all", "cluster": "api",
			"endpoint": "api-2", "upstream": "10.0.0.2:80",
			"attempts": []any{
				map[string]any{"endpoint": "api-1", "at_ms": 0.0, "duration_ms": 0.2, "class": "conn", "ending": "connect refused"},
				map[string]any{"endpoint": "api-2", "at_ms": 0.2, "duration_ms": 1.0, "class": "ok", "ending": "complete", "status": 200.0},
			},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("line differs (-want +got):\n%s", diff)
		}
	})
}

// stuck is an output that takes nothing until it is let go.
type stuck struct {
	held    chan struct{}
	written int
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.held
	s.written += bytes.Count(p, []byte("\n"))
	return len(p), nil
}

func TestAnOutputThatCannotKeepUpCostsLinesAndNotTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &stuck{held: make(chan struct{})}
		log := telemetry.NewAccessLog(out, clock.New())
		r := telemetry.NewRecorder("web", false, log, nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		r.Log(record())
		go func() { ended <- log.Run(ctx) }()
		time.Sleep(time.Second) // the writer is stuck with the first line now
		const lines = 20_000
		for range lines {
			r.Log(record())
		}
		close(out.held)
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if log.Dropped() == 0 || out.written+int(log.Dropped()) != lines+1 {
			t.Errorf("%d lines written and %d dropped, want %d together, some of them dropped", out.written, log.Dropped(), lines+1)
		}
	})
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestLinesThatTheOutputRefusesAreCounted(t *testing.T) {
	log := telemetry.NewAccessLog(broken{}, clock.New())
	r := telemetry.NewRecorder("web", true, log, nil)
	r.Log(record())
	r.LogTCP(&tcp.Record{Client: "127.0.0.1:5"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := log.Run(ctx); err != nil || log.Dropped() != 2 {
		t.Errorf("Run = %v, %d dropped, want nil and 2", err, log.Dropped())
	}
}

func TestAFileIsReopenedAfterItWasMovedAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	log, err := telemetry.OpenAccessLog(path, clock.New())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := log.Reopen(); err != nil {
		t.Fatal(err)
	}
	telemetry.NewRecorder("web", false, log, nil).Log(record())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := log.Run(ctx); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{path: 1, path + ".1": 0} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(string(text), "\n"); got != want {
			t.Errorf("%s has %d lines, want %d", filepath.Base(name), got, want)
		}
	}
}

func TestALineAllocatesNothing(t *testing.T) {
	log := telemetry.NewAccessLog(&bytes.Buffer{}, clock.New())
	r := telemetry.NewRecorder("web", false, log, nil)
	rec := record()
	rec.Flags = 0
	for range 100 {
		r.Log(rec)
	}
	if got := testing.AllocsPerRun(100, func() { r.Log(rec) }); got >= 1 { // what waits grows now and then
		t.Errorf("a request allocates %.1f times in its recorder, want less than once", got)
	}
}

func BenchmarkLine(b *testing.B) {
	log := telemetry.NewAccessLog(io.Discard, clock.New())
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error)
	go func() { done <- log.Run(ctx) }()
	r, rec := telemetry.NewRecorder("web", false, log, nil), record()
	rec.Path, rec.UserAgent = []byte("/api/v1/things?id=42"), []byte("Mozilla/5.0 (X11; Linux x86_64)")
	rec.RequestID = []byte("01234567-89ab-cdef-0123-456789abcdef")
	rec.Attempts, rec.Final = rec.Attempts[1:], 0
	b.ReportAllocs()
	for b.Loop() {
		r.Log(rec)
	}
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

func TestRequestsAreCountedByRouteStatusAndFlag(t *testing.T) {
	r := telemetry.NewRecorder("web", false, nil, nil)
	ok, failed := record(), record()
	failed.Status, failed.Flags, failed.Duration = 503, exchange.NoHealthyUpstream|exchange.RetriesExhausted, time.Minute
	r.Log(ok)
	r.Log(ok)
	r.Log(failed)
	var m exchange.Metrics
	m.Retries.Store(4)
	m.Hedges.Store(3)
	m.HedgesWon.Store(2)
	m.Tunnels.Store(1)
	c := telemetry.NewCollector(telemetry.Source{
		Version: "v1",
		Listeners: func() []telemetry.Listener {
			return []telemetry.Listener{{Recorder: r, HTTP: &m, Accepted: func() uint64 { return 7 }}}
		},
		Clusters:     func() []*cluster.Cluster { return nil },
		ControlPlane: func() (bool, bool, bool) { return true, true, false },
		Reloads:      func() (uint64, uint64) { return 1, 2 },
		Draining:     func() bool { return false },
	})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP overhear_http_server_requests_total Requests by the status that the client got; 0 is none.
# TYPE overhear_http_server_requests_total counter
overhear_http_server_requests_total{cluster="api",direction="outbound",http_response_status_code="200",http_route="all",listener="web"} 2
overhear_http_server_requests_total{cluster="api",direction="outbound",http_response_status_code="503",http_route="all",listener="web"} 1
# HELP overhear_response_flags_total Requests and connections by response flag, as in the access log.
# TYPE overhear_response_flags_total counter
overhear_response_flags_total{direction="outbound",flag="UH",listener="web"} 1
overhear_response_flags_total{direction="outbound",flag="URX",listener="web"} 1
# HELP overhear_retries_total Attempts beyond a request's first.
# TYPE overhear_retries_total counter
overhear_retries_total{listener="web"} 4
# HELP overhear_tunnels Connections and streams that have changed their protocol, and are open.
# TYPE overhear_tunnels gauge
overhear_tunnels{direction="outbound",listener="web"} 1
# HELP overhear_hedges_total Attempts that began while another of their request was overdue, by what became of them.
# TYPE overhear_hedges_total counter
overhear_hedges_total{listener="web",result="lost"} 1
overhear_hedges_total{listener="web",result="won"} 2
# HELP overhear_config_reloads_total Reloads of the configuration.
# TYPE overhear_config_reloads_total counter
overhear_config_reloads_total{result="accepted"} 1
overhear_config_reloads_total{result="refused"} 2
# HELP overhear_control_plane_connected 1 while the control plane is heard.
# TYPE overhear_control_plane_connected gauge
overhear_control_plane_connected{stream="ads"} 1
overhear_control_plane_connected{stream="report"} 0
`), "overhear_http_server_requests_total", "overhear_response_flags_total", "overhear_retries_total", "overhear_hedges_total", "overhear_tunnels", "overhear_config_reloads_total", "overhear_control_plane_connected")
	if err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(registry, "overhear_http_server_request_duration_seconds"); err != nil || n != 1 {
		t.Errorf("%d duration histograms, error %v, want 1", n, err)
	}
}

func TestALineSaysWhichVersionAndWhatGRPCCameTo(t *testing.T) {
	for _, tt := range []struct {
		edit      func(*exchange.Record)
		protocol  string
		status    float64
		hasStatus bool
	}{
		{func(r *exchange.Record) { r.Major, r.Minor = 1, 0 }, "HTTP/1.0", 0, false},
		{func(r *exchange.Record) { r.Major, r.Minor, r.GRPCStatus = 2, 0, -1 }, "HTTP/2", 0, false},
		{func(r *exchange.Record) { r.Major, r.GRPC, r.GRPCStatus = 2, true, 14 }, "HTTP/2", 14, true},
		{func(r *exchange.Record) { r.Major, r.GRPC, r.GRPCStatus = 2, true, -1 }, "HTTP/2", 0, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			log := telemetry.NewAccessLog(&out, clock.New())
			line := record()
			tt.edit(line)
			telemetry.NewRecorder("web", false, log, nil).Log(line)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := log.Run(ctx); err != nil {
				t.Fatal(err)
			}
			var got map[string]any
			if err := json.Unmarshal(out.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			status, has := got["grpc_status"]
			if got["protocol"] != tt.protocol || has != tt.hasStatus || has && status != tt.status {
				t.Errorf("got %v, grpc_status %v; want %s, %v", got["protocol"], status, tt.protocol, tt.status)
			}
		})
	}
}
