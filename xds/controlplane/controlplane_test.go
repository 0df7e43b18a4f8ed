package controlplane_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/controlplane"
	"github.com/overhear-mesh/overhear/xds/registry"
)

// crash makes the callers see what a crash of api-3 looks like: one runs into it,
// and whoever probes it is refused. It returns the instant of the failure.
func crash(all []*sidecar) time.Time {
	const instance = "api-3"
	for _, s := range all {
		s.broken(instance, outlier.Refused)
	}
	all[0].attempts(instance, 1, 1, outlier.Conn)
	return time.Now()
}

func TestACrashReachesTheWholeFleetWithinAHundredMilliseconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.net.Delay("*", "*", time.Millisecond, time.Millisecond)
		all := w.callers(6)
		busy(all, 12*time.Second)
		failed := crash(all)
		time.Sleep(500 * time.Millisecond)
		for _, s := range all {
			s.mu.Lock()
			at, out := s.unhealthy["api-3"]
			s.mu.Unlock()
			if took := at.Sub(failed); !out || took > 100*time.Millisecond {
				t.Errorf("%s was told after %v (told: %v), want within 100 ms", s.id, took, out)
			}
			for _, other := range []string{"api-1", "api-2", "api-4", "api-5", "api-6"} {
				if e, ok := s.endpoint(other); !ok || e.Verdict.State != outlier.In {
					t.Errorf("%s: %s is %v (known: %v), want in", s.id, other, e.Verdict.State, ok)
				}
			}
		}
		if got := w.state("api-3"); !got.Out() {
			t.Errorf("status says %v, want out", got)
		}
		var why controlplane.Why
		w.get("/api/v1/why?endpoint=api-3", &why)
		if why.Explain.Rule != "hard" || len(why.Explain.Probes) == 0 || len(why.Events) == 0 {
			t.Errorf("why: got rule %q, %d probes, %d events; want rule hard with its probes and history", why.Explain.Rule, len(why.Explain.Probes), len(why.Events))
		}
	})
}

func TestOneBrokenCallerMovesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		all := w.callers(6)
		busy(all, 12*time.Second)
		for range 50 { // its own network is broken: all that it does fails
			for _, instance := range all[0].instances() {
				all[0].attempts(instance, 3, 3, outlier.Conn)
			}
			for _, s := range all[1:] {
				for _, instance := range s.instances() {
					s.attempts(instance, 3, 0, outlier.OK)
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		for _, s := range all {
			if len(s.unhealthy) != 0 {
				t.Errorf("%s was told to leave %v, want nobody", s.id, s.unhealthy)
			}
		}
	})
}

func TestARestartReadmitsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		w := newWorld(t, func(c *controlplane.Config) { c.StateDir = dir })
		all := w.callers(6)
		busy(all, 12*time.Second)
		crash(all)
		time.Sleep(300 * time.Millisecond)
		before, _ := all[1].endpoint("api-3")
		if !before.Verdict.State.Out() {
			t.Fatalf("api-3 is %v before the restart, want out", before.Verdict.State)
		}
		var old controlplane.Why
		w.order("eject", `{"endpoint":"api-6","reason":"bad disk","for":"10m"}`)
		w.get("/api/v1/why?endpoint=api-6", &old)
		w.stop()
		var kept struct{ Reporters []string }
		if data, err := os.ReadFile(filepath.Join(dir, "verdicts.json")); err != nil || json.Unmarshal(data, &kept) != nil || len(kept.Reporters) != 6 {
			t.Errorf("reporters to wait for: got %v, %v; want all six, though their streams have ended", kept.Reporters, err)
		}
		time.Sleep(5 * time.Second) // nobody is told anything
		w.start()
		began := time.Now()
		w.opened()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the gate opened after %v, want at most 2 s", took)
		}
		time.Sleep(500 * time.Millisecond)
		for _, s := range all {
			e, ok := s.endpoint("api-3")
			if !ok || !e.Verdict.State.Out() {
				t.Errorf("%s: api-3 is %v (known: %v) after the restart, want out", s.id, e.Verdict.State, ok)
			}
			if e.Verdict.Epoch < before.Verdict.Epoch {
				t.Errorf("%s: epoch fell from %d to %d", s.id, before.Verdict.Epoch, e.Verdict.Epoch)
			}
		}
		// What each says once, right after it is back, must not be lost because its
		// xDS stream came a little later.
		time.Sleep(1500 * time.Millisecond)
		var reporters controlplane.Reporters
		w.get("/api/v1/reporters", &reporters)
		for _, r := range reporters.Reporters {
			if r.Accepted == 0 || len(r.Refused) > 0 {
				t.Errorf("%s after the restart: %d readings accepted, refused %v; want its evidence whole", r.ID, r.Accepted, r.Refused)
			}
		}
		var why controlplane.Why
		w.get("/api/v1/why?endpoint=api-6", &why)
		if d := why.Endpoint.SinceTime.Sub(old.Endpoint.SinceTime); why.Endpoint.State != outlier.Ejected || d.Abs() > time.Millisecond {
			t.Errorf("api-6 after the restart: %v, since moved by %v; want ejected since the same moment", why.Endpoint.State, d)
		}
		if diff := cmp.Diff(old.Endpoint.Override, why.Endpoint.Override, cmpopts.EquateApproxTime(10*time.Millisecond)); diff != "" {
			t.Errorf("the operator's order differs after the restart (-want +got):\n%s", diff)
		}
	})
}

func TestARestartWithoutAFileGoesByWhatReportersHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		all := w.callers(6)
		busy(all, 12*time.Second)
		crash(all)
		time.Sleep(300 * time.Millisecond)
		before, _ := all[1].endpoint("api-3")
		w.stop()
		w.start()
		w.opened()
		time.Sleep(time.Second)
		for _, s := range all {
			e, _ := s.endpoint("api-3")
			if !e.Verdict.State.Out() || e.Verdict.Epoch < before.Verdict.Epoch {
				t.Errorf("%s: api-3 is %v of epoch %d after the restart, want out with at least epoch %d", s.id, e.Verdict.State, e.Verdict.Epoch, before.Verdict.Epoch)
			}
		}
	})
}

func TestAKillRightAfterAFirstStartReadmitsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "verdicts.json")
		w := newWorld(t, func(c *controlplane.Config) { c.StateDir = filepath.Dir(path) })
		// What a kill would leave: of an orderly end the file would say more.
		remains := func() []byte {
			t.Helper()
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
		waits := func(left []byte) time.Duration {
			t.Helper()
			w.stop()
			if err := os.WriteFile(path, left, 0o600); err != nil {
				t.Fatal(err)
			}
			w.start()
			began := time.Now()
			w.opened()
			return time.Since(began)
		}
		w.opened()
		synctest.Wait()
		if took := waits(remains()); took != 2*time.Second {
			t.Errorf("killed before anybody had come: the gate opened after %v, want 2 s for those who may know more", took)
		}
		time.Sleep(5 * time.Second)
		if took := waits(remains()); took > 100*time.Millisecond {
			t.Errorf("killed after nobody had come for 5 s: the gate opened after %v, want at once", took)
		}
	})
}

func TestAnUnreadableFileOfVerdictsIsPutAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "verdicts.json")
		if err := os.WriteFile(path, []byte("{half"), 0o600); err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, func(c *controlplane.Config) { c.StateDir = dir })
		w.opened()
		if got, err := os.ReadFile(path + ".unreadable"); err != nil || string(got) != "{half" {
			t.Errorf("the bad file: got %q, %v; want it kept aside", got, err)
		}
		time.Sleep(2 * time.Second)
		var kept struct{ Version int }
		if data, err := os.ReadFile(path); err != nil || json.Unmarshal(data, &kept) != nil || kept.Version != 1 {
			t.Errorf("the new file: got %q, %v; want version 1", data, err)
		}
	})
}

func TestNobodyIsAnsweredBeforeTheGateOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		s := w.sidecar(1, "a")
		time.Sleep(1900 * time.Millisecond)
		if got := s.instances(); len(got) != 0 {
			t.Errorf("the client was told of %v before the gate opened", got)
		}
		if status, text := w.do("GET", "/ready", "", nil); status != http.StatusServiceUnavailable {
			t.Errorf("ready: got %d %q, want 503", status, text)
		}
		if status, text := w.do("GET", "/live", "", nil); status != http.StatusOK {
			t.Errorf("live: got %d %q, want 200", status, text)
		}
		time.Sleep(300 * time.Millisecond)
		if got := len(s.instances()); got != 6 {
			t.Errorf("the client was told of %d endpoints after the gate opened, want 6", got)
		}
		if status, text := w.do("GET", "/ready", "", nil); status != http.StatusOK {
			t.Errorf("ready: got %d %q, want 200", status, text)
		}
	})
}

func TestAFirstStartDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		began := time.Now()
		w := newWorld(t, func(c *controlplane.Config) { c.StateDir = dir })
		w.opened()
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("the gate opened after %v, want at once: an empty state directory says that nobody was before", took)
		}
	})
}

// recovers lets api-3 answer again, under traffic, until it is in.
func (w *world) recovers(all []*sidecar) {
	w.t.Helper()
	for _, s := range all {
		s.mu.Lock()
		delete(s.down, "api-3")
		s.mu.Unlock()
	}
	for range 60 {
		busy(all, time.Second)
		if w.state("api-3") == outlier.In {
			return
		}
	}
	w.t.Fatalf("api-3 is %v a minute after it answered again", w.state("api-3"))
}

// story is what a foreign client was told of the watched instance, one word for
// each change: its weight, or its health if that is not HEALTHY.
func (f *foreign) story() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, e := range f.told {
		word := e.HealthStatus.String()
		if e.HealthStatus == corev3.HealthStatus_HEALTHY {
			word = fmt.Sprint(e.LoadBalancingWeight.GetValue())
		}
		all = append(all, word)
	}
	return slices.Compact(all)
}

func TestARampIsOnePushForSidecarsAndFiveStepsForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		all := w.callers(6)
		watched := netip.MustParseAddrPort("10.1.0.3:8080")
		envoy := w.foreign("10.3.0.1", "envoy", "a", watched)
		grpc := w.foreign("10.3.0.2", "gRPC Go", "a", watched)
		busy(all, 12*time.Second)
		crash(all)
		time.Sleep(100 * time.Millisecond)
		w.recovers(all)
		time.Sleep(time.Second)
		steps := []string{"25", "40", "55", "70", "85", "100"}
		if diff := cmp.Diff(append([]string{"100", "DRAINING"}, steps...), envoy.story()); diff != "" {
			t.Errorf("what an Envoy was told differs (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(append([]string{"100", "UNHEALTHY"}, steps...), grpc.story()); diff != "" {
			t.Errorf("what a gRPC client was told differs (-want +got):\n%s", diff)
		}
		states := map[outlier.State]int{}
		all[0].mu.Lock()
		pushes := slices.Clone(all[0].pushes)
		all[0].mu.Unlock()
		for _, push := range pushes {
			for _, e := range push.Endpoints {
				if e.ID() == "api-3" {
					states[e.Verdict.State]++
				}
			}
		}
		if states[outlier.Ramp] != 1 {
			t.Errorf("pushes to a sidecar by state of the endpoint: got %v, want one with the ramp", states)
		}
	})
}

func TestAnIdleEndpointIsPingedByThreeUntilTrafficSpeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		all := w.callers(6)
		pingers := func() map[string]int {
			n := map[string]int{}
			for _, s := range all {
				s.mu.Lock()
				last := map[string]merge.PingLease{}
				for _, l := range s.leases {
					last[l.Key.Instance] = l
				}
				for instance, l := range last {
					if l.Until > s.now() {
						n[instance]++
					}
				}
				s.mu.Unlock()
			}
			return n
		}
		time.Sleep(15 * time.Second)
		want := map[string]int{}
		for _, instance := range all[0].instances() {
			want[instance] = 3
		}
		if diff := cmp.Diff(want, pingers()); diff != "" {
			t.Errorf("pingers by endpoint after 15 s of silence (-want +got):\n%s", diff)
		}
		busy(all, 3*time.Second)
		if got := pingers(); len(got) != 0 {
			t.Errorf("pingers by endpoint under traffic: got %v, want none", got)
		}
	})
}

func TestAVerdictForOneZoneIsToldToThatZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		all := w.callers(6) // 1, 3, 5 are in zone a
		busy(all, 12*time.Second)
		for range 40 { // zone a gets errors from api-2, zone b does not
			for i, s := range all {
				for _, instance := range s.instances() {
					k := uint32(0)
					if instance == "api-2" && i%2 == 0 {
						k = 5
					}
					s.attempts(instance, 5, k, outlier.Server)
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
		for i, s := range all {
			e, _ := s.endpoint("api-2")
			if out, want := e.Verdict.State.Out(), i%2 == 0; out != want {
				t.Errorf("%s: api-2 is %v, want out: %v", s.id, e.Verdict.State, want)
			}
		}
		late := w.sidecar(50, "c") // a zone that nobody has spoken of
		time.Sleep(100 * time.Millisecond)
		if e, ok := late.endpoint("api-2"); !ok || e.Verdict.State != outlier.In {
			t.Errorf("a caller of a third zone: api-2 is %v (known: %v), want in", e.Verdict.State, ok)
		}
		var st controlplane.Status
		w.get("/api/v1/status", &st)
		for _, e := range st.Services[0].Endpoints {
			if e.Instance == "api-2" && (len(e.Zones) != 1 || e.Zones[0].Zone != "a") {
				t.Errorf("status of api-2: got zones %+v, want a verdict for a", e.Zones)
			}
		}
	})
}

func TestAReloadReachesTheClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		s := w.callers(1)[0]

		m := mesh()
		m.Services[0].Endpoints[5].Draining = true
		m.Services[0].Endpoints = slices.Delete(m.Services[0].Endpoints, 0, 1)
		w.registry.Set(m)
		time.Sleep(100 * time.Millisecond)
		if diff := cmp.Diff([]string{"api-2", "api-3", "api-4", "api-5", "api-6"}, s.instances()); diff != "" {
			t.Errorf("endpoints after a removal differ (-want +got):\n%s", diff)
		}
		if e, _ := s.endpoint("api-6"); !e.Draining {
			t.Errorf("api-6: got %+v, want draining", e)
		}
		if got := w.state("api-6"); got != outlier.Draining {
			t.Errorf("status says that api-6 is %v, want draining", got)
		}

		w.registry.Set(&registry.Mesh{Services: []registry.Service{}})
		time.Sleep(100 * time.Millisecond)
		if got := s.instances(); len(got) != 0 {
			t.Errorf("endpoints after the service was removed: got %v, want none", got)
		}
	})
}

func TestTheAPISaysWhatIsWrongWithARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		m := mesh()
		other := m.Services[0]
		other.Name = "other"
		m.Services = append(m.Services, other)
		w.registry.Set(m)
		w.opened()
		for _, tc := range []struct {
			method, path, body string
			want               int
			text               string
		}{
			{"GET", "/api/v1/why", "", 400, "endpoint is missing"},
			{"GET", "/api/v1/why?endpoint=nobody", "", 404, `there is no endpoint \"nobody\"`},
			{"GET", "/api/v1/why?endpoint=api-1", "", 409, `may be any of api/api-1, other/api-1`},
			{"GET", "/api/v1/why?endpoint=api/10.1.0.1:8080", "", 200, `"api-1"`},
			{"GET", "/api/v1/why?endpoint=other/api-1", "", 200, `"other"`},
			{"GET", "/api/v1/why?endpoint=api-12", "", 404, `there is no endpoint \"api-12\": did you mean \"api-1\"?`},
			{"GET", "/api/v1/why?endpoint=apj/api-1", "", 404, `did you mean \"api/api-1\"?`},
			{"GET", "/api/v1/status?service=nobody", "", 404, `there is no service \"nobody\"`},
			{"GET", "/api/v1/status?service=apii", "", 404, `there is no service \"apii\": did you mean \"api\"?`},
			{"GET", "/api/v1/status?endpoint=api-1", "", 400, "service is missing"},
			{"GET", "/api/v1/status?service=api&endpoint=api-11", "", 404, `there is no endpoint \"api-11\" in service \"api\": did you mean \"api-1\"?`},
			{"GET", "/api/v1/status?service=api&endpoint=10.1.0.1:8080", "", 200, `"api-1"`},
			{"GET", "/api/v1/events?after=x", "", 400, "want the cursor of an event"},
			{"GET", "/api/v1/events?follow=perhaps", "", 400, "want true or false"},
			{"GET", "/api/v1/eject", "", 405, "POST"},
			{"DELETE", "/api/v1/status", "", 405, ""},
			{"GET", "/api/v2", "", 404, ""},
			{"POST", "/api/v1/eject", `{`, 400, "no order"},
			{"POST", "/api/v1/eject", `{"endpoint":"api/api-1"}`, 400, "reason is missing"},
			{"POST", "/api/v1/eject", `{"endpoint":"api/api-1","reasn":"x"}`, 400, "unknown field"},
			{"POST", "/api/v1/eject", `{"endpoint":"api/api-1","reason":"x"} more`, 400, "goes on"},
			{"POST", "/api/v1/eject", `{"endpoint":"api/api-1","reason":"x","for":"-1s"}`, 400, "for is -1s"},
			{"POST", "/api/v1/eject", `{"endpoint":"nobody","reason":"x"}`, 404, "no endpoint"},
		} {
			status, text := w.do(tc.method, tc.path, tc.body, http.Header{"Authorization": {"Bearer " + token}})
			if status != tc.want || !strings.Contains(text, tc.text) {
				t.Errorf("%s %s %s: got %d %s, want %d with %q", tc.method, tc.path, tc.body, status, text, tc.want, tc.text)
			}
		}
		if status, _ := w.do("POST", "/api/v1/eject", `{"endpoint":"api/api-1","reason":"x"}`, nil); status != http.StatusUnauthorized {
			t.Errorf("an order without a token: got %d, want 401", status)
		}
	})
}

func TestWithoutATokenNothingCanBeChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *controlplane.Config) { c.APIToken = "" })
		for _, verb := range []string{"eject", "pin", "release"} {
			status, text := w.do("POST", "/api/v1/"+verb, `{"endpoint":"api-1","reason":"x"}`, http.Header{"Authorization": {"Bearer "}})
			if status != http.StatusForbidden || !strings.Contains(text, "set control_plane.api_token") {
				t.Errorf("POST %s: got %d %s, want 403 and which setting is missing", verb, status, text)
			}
		}
	})
}

func TestAnOperatorEjectsPinsAndReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		all := w.callers(6)
		busy(all, 3*time.Second)
		why := w.order("eject", `{"endpoint":"api-2","reason":"bad disk","for":"10m","by":"alice"}`)
		if why.Endpoint.State != outlier.Ejected || why.Endpoint.Override == nil || why.Endpoint.Override.By != "alice" {
			t.Errorf("after eject: got state %v, override %+v; want ejected by alice", why.Endpoint.State, why.Endpoint.Override)
		}
		time.Sleep(50 * time.Millisecond)
		for _, s := range all {
			if e, _ := s.endpoint("api-2"); e.Verdict.State != outlier.Ejected || e.Verdict.Reason != "bad disk" {
				t.Errorf("%s: api-2 is %+v, want ejected for a bad disk", s.id, e.Verdict)
			}
		}
		w.order("release", `{"endpoint":"api-2"}`)
		w.order("pin", `{"endpoint":"api-3","reason":"the only one with the data"}`)
		crash(all)
		time.Sleep(500 * time.Millisecond)
		if got := w.state("api-3"); got != outlier.In {
			t.Errorf("a pinned endpoint is %v after a crash, want in", got)
		}
		var events []string
		_, text := w.do("GET", "/api/v1/events", "", nil)
		for line := range strings.Lines(text) {
			var e controlplane.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("event %q: %v", line, err)
			}
			if e.Kind == "operator" {
				events = append(events, e.Text)
			}
		}
		if len(events) != 3 || events[0] != "api/api-2: eject by alice: bad disk (for 10m0s)" {
			t.Errorf("operator's events: got %q, want three", events)
		}
	})
}

func TestEventsAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.opened()
		operator := w.net.Host("10.9.0.2")
		tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return operator.Dial(ctx, network, addr)
		}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+apiAddr+"/api/v1/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "text/event-stream")
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		defer tr.CloseIdleConnections()
		lines := bufio.NewReader(resp.Body)
		next := func() (event string) {
			t.Helper()
			for {
				line, err := lines.ReadString('\n')
				if err != nil {
					t.Fatal(err)
				}
				if text, ok := strings.CutPrefix(line, "event: "); ok {
					return strings.TrimSpace(text)
				}
			}
		}
		if got := next(); got != "registry" {
			t.Errorf("first event: got %q, want registry", got)
		}
		if got := next(); got != "ready" {
			t.Errorf("second event: got %q, want ready", got)
		}
		time.Sleep(10 * time.Minute) // longer than any timeout of the server
		w.registry.Set(mesh())
		if got := next(); got != "registry" {
			t.Errorf("event after a reload: got %q, want registry", got)
		}
		w.stop() // must not wait for a follower, and ends the stream
		if _, err := io.Copy(io.Discard, lines); errors.Is(err, context.Canceled) {
			t.Errorf("the stream ended with %v, want the control plane to end it", err)
		}
	})
}

func TestACursorIsOfTheProcessThatGaveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.opened()
		events := func(query string) int {
			_, text := w.do("GET", "/api/v1/events?follow=false"+query, "", nil)
			return strings.Count(text, "\n")
		}
		all := events("")
		if got := events("&after=1"); got != all-1 {
			t.Errorf("after the first event: got %d, want %d", got, all-1)
		}
		if got := events("&after=1&run=of-before"); got != all {
			t.Errorf("after the first event of another process: got %d, want all %d", got, all)
		}
	})
}

func TestMetricsTellTheStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		all := w.callers(6)
		busy(all, 12*time.Second)
		crash(all)
		time.Sleep(300 * time.Millisecond)
		_, text := w.do("GET", "/metrics", "", nil)
		for _, want := range []string{
			`overhear_controlplane_ready 1`,
			`overhear_controlplane_info{version="test"} 1`,
			`overhear_reporters{live="true"} 6`,
			`overhear_endpoints{service="api",state="ejected"} 1`,
			`overhear_endpoints{service="api",state="in"} 5`,
			`overhear_verdicts_total{rule="hard",scope="fleet",service="api",state="ejected"} 1`,
			`overhear_suspicions_total{service="api"} 1`,
			`overhear_probe_results_total{result="refused"}`,
			`overhear_registry_in_sync 1`,
			`overhear_step_duration_seconds_count`,
			`overhear_push_duration_seconds_bucket`,
			`overhear_xds_streams 6`,
			`overhear_xds_streams_refused_total{reason="too_many_names"} 0`,
			`overhear_xds_requests_ignored_total{reason="type_not_served"} 0`,
			`go_goroutines`,
		} {
			if !strings.Contains(text, want) {
				t.Errorf("metrics lack %s", want)
			}
		}
		if t.Failed() {
			t.Log(text)
		}
	})
}

func TestAConfigurationThatCannotWorkIsRefused(t *testing.T) {
	for _, tc := range []struct {
		name string
		edit func(*controlplane.Config)
		want string
	}{
		{"an open port without TLS", func(c *controlplane.Config) { c.XDS = "0.0.0.0:15010" }, "xds: 0.0.0.0:15010 is not loopback"},
		{"no host is every address", func(c *controlplane.Config) { c.XDS = ":15010" }, "is not loopback"},
		{"no port", func(c *controlplane.Config) { c.HTTP = "127.0.0.1" }, "http: "},
		{"a port by name", func(c *controlplane.Config) { c.HTTP = "127.0.0.1:http" }, "no port number"},
		{"a short token", func(c *controlplane.Config) { c.APIToken = "secret" }, "api_token: is 6 characters long"},
		{"a token with a blank", func(c *controlplane.Config) { c.APIToken = "secret secret secret" }, "api_token: has blanks"},
		{"no history", func(c *controlplane.Config) { c.Events = 0 }, "events: "},
		{"a long wait", func(c *controlplane.Config) { c.ReturnWait = time.Hour }, "return_wait: "},
		{"a part of it", func(c *controlplane.Config) { c.Merge.Mute = 0 }, "merge.mute: "},
		{"no room for names", func(c *controlplane.Config) { c.Server.MaxUnknown = 0 }, "server: max_unknown: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := controlplane.DefaultConfig()
			tc.edit(&cfg)
			_, err := controlplane.New(cfg, controlplane.Options{Registry: registry.Static(&registry.Mesh{})})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestRunSaysWhichPortIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		second, err := controlplane.New(w.cfg, controlplane.Options{Registry: registry.Static(mesh()), Listen: w.net.Host(host).Listen})
		if err != nil {
			t.Fatal(err)
		}
		if err := second.Run(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "xds: ") {
			t.Errorf("Run on a taken port: got %v, want an error about xds", err)
		}
	})
}

func TestReportersAndClientsAreListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		all := w.callers(2)
		all[0].attempts("api-1", 5, 0, outlier.OK)
		time.Sleep(time.Second)
		var reporters controlplane.Reporters
		w.get("/api/v1/reporters", &reporters)
		var got []string
		for _, r := range reporters.Reporters {
			got = append(got, fmt.Sprintf("%s %s %s live=%v", r.ID, r.Zone, r.Domain, r.Live))
		}
		want := []string{"caller-1 a node:node-caller-1 live=true", "caller-2 b node:node-caller-2 live=true"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("reporters differ (-want +got):\n%s", diff)
		}
		all[1].stop()
		time.Sleep(time.Second)
		w.get("/api/v1/reporters", &reporters)
		if r := reporters.Reporters[1]; r.Live {
			t.Errorf("%s is live after its stream has ended", r.ID)
		}
		var clients controlplane.Clients
		w.get("/api/v1/clients", &clients)
		if len(clients.Clients) != 1 || clients.Clients[0].Node != "caller-1" || clients.Clients[0].Kind != "overhear" {
			t.Errorf("clients: got %+v, want caller-1 alone", clients.Clients)
		}
	})
}
