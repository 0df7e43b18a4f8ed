//go:build unix

package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/test/fakeupstream"
)

// mesh is a control plane with its file and what it has been told to keep.
type mesh struct {
	t         *testing.T
	control   *process
	path      string
	xds, http string
}

// newMesh starts a control plane for one service, api; endpoints are the lines that
// the registry has of it.
func newMesh(t *testing.T, endpoints ...string) *mesh {
	t.Helper()
	m := &mesh{t: t, path: write(t, "mesh.yaml", "")}
	m.xds, m.http = "127.0.0.1:0", "127.0.0.1:0"
	m.file(endpoints)
	m.start()
	// The next life must be found where this one was.
	at := m.control.logged(`msg=listening xds=(\S+) http=(\S+)`)
	m.xds, m.http = at[1], at[2]
	m.file(endpoints)
	return m
}

func (m *mesh) file(endpoints []string) {
	m.t.Helper()
	text := fmt.Sprintf("control_plane: {xds: \"%s\", http: \"%s\", state_dir: %s}\nservices:\n  - name: api\n    endpoints: [\n",
		m.xds, m.http, filepath.Join(filepath.Dir(m.path), "state"))
	for _, e := range endpoints {
		text += "      " + e + ",\n"
	}
	if err := os.WriteFile(m.path, []byte(text+"    ]\n"), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mesh) start() {
	m.t.Helper()
	m.control = launch(m.t, "controlplane", "run", "-c", m.path)
}

// belief is what the control plane, or a sidecar, believes of an endpoint.
type belief struct {
	State, Rule string
	Epoch       int
}

func (b belief) out() bool { return b.State != "" && b.State != "in" && b.State != "ramp" }

// believed is what the control plane believes of the endpoints, by instance; nil if
// it does not answer, or is not ready.
func (m *mesh) believed() map[string]belief {
	a := get(m.http, "/api/v1/status")
	var status struct {
		Ready    bool
		Services []struct {
			Endpoints []struct {
				Instance string
				belief
			}
		}
	}
	if a.status != http.StatusOK || json.Unmarshal([]byte(a.body), &status) != nil || !status.Ready {
		return nil
	}
	all := map[string]belief{}
	for _, s := range status.Services {
		for _, e := range s.Endpoints {
			all[e.Instance] = e.belief
		}
	}
	return all
}

// seen is what a sidecar shows.
type seen struct {
	Sidecar struct {
		ControlPlane struct {
			Connected bool
			From      string `json:"resources_from"`
			Age       string `json:"resources_age"`
		} `json:"control_plane"`
	}
	Clusters []struct {
		Name      string
		Endpoints []struct {
			ID, State string
			Share     float64
		}
	}
}

func look(p *process) (s seen) {
	p.t.Helper()
	if err := json.Unmarshal([]byte(p.admin("/clusters")), &s); err != nil {
		p.t.Fatal(err)
	}
	return s
}

// share is the part of its weight that a sidecar gives an endpoint; negative if it
// does not know it.
func share(p *process, instance string) float64 {
	p.t.Helper()
	for _, c := range look(p).Clusters {
		for _, e := range c.Endpoints {
			if e.ID == instance {
				return e.Share
			}
		}
	}
	return -1
}

// caller is a sidecar that finds api by the control plane.
func (m *mesh) caller(i int, more string) *process {
	m.t.Helper()
	return sidecar(m.t, fmt.Sprintf(`
node: {id: caller-%d, labels: {node: host-%[1]d}}
control_plane: {addresses: ["%s"]}
outbound: [{name: web, address: "127.0.0.1:0", cluster: api}]
%s`, i, m.xds, more)).ready()
}

// load sends requests through sidecars until the returned function is called, which
// tells how many there were and which of them failed.
func load(callers []*process) (stop func() (sent int, failed []answer)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var total atomic.Int64
	var bad []answer
	done := make(chan struct{})
	for _, c := range callers {
		address := c.address("web")
		wg.Go(func() {
			pace := time.NewTicker(5 * time.Millisecond)
			defer pace.Stop()
			for {
				select {
				case <-done:
					return
				case <-pace.C:
				}
				a := get(address, "/")
				total.Add(1)
				if a.status != http.StatusOK {
					mu.Lock()
					bad = append(bad, a)
					mu.Unlock()
				}
			}
		})
	}
	return func() (int, []answer) {
		close(done)
		wg.Wait()
		return int(total.Load()), bad
	}
}

// A crash is found by all callers, the control plane is killed and comes back: the
// endpoint stays out all the while. Then the control plane is killed again, and a
// sidecar that starts without it serves from what it was told in its earlier life.
func TestVerdictsOutliveTheControlPlane(t *testing.T) {
	var backends []*fakeupstream.Backend
	var endpoints []string
	for i := range 3 {
		b := application(t, fakeupstream.Config{Body: fmt.Appendf(nil, "api-%d", i)})
		backends = append(backends, b)
		endpoints = append(endpoints, fmt.Sprintf(`{address: "%s", instance: api-%d}`, b.Addr(), i))
	}
	m := newMesh(t, endpoints...)
	saved := t.TempDir()
	var callers []*process
	for i := range 4 {
		callers = append(callers, m.caller(i, fmt.Sprintf("state_dir: %s\n", filepath.Join(saved, fmt.Sprint(i)))))
	}
	stop := load(callers)
	eventually(t, "some traffic at each endpoint", func() bool {
		return backends[0].Counts().Requests > 20 && backends[1].Counts().Requests > 20 && backends[2].Counts().Requests > 20
	})
	if err := backends[1].Set(fakeupstream.Crash()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a verdict on the crashed endpoint", func() bool { return m.believed()["api-1"].out() })
	eventually(t, "all callers off it", func() bool {
		for _, c := range callers {
			if share(c, "api-1") != 0 {
				return false
			}
		}
		return true
	})
	before := m.believed()["api-1"]

	m.control.kill()
	eventually(t, "a caller that misses the control plane", func() bool { return !look(callers[0]).Sidecar.ControlPlane.Connected })
	m.start()
	var after belief
	eventually(t, "a control plane that is back", func() bool {
		for _, c := range callers {
			if got := share(c, "api-1"); got != 0 {
				t.Fatalf("a caller gives the crashed endpoint %v of its share while the control plane comes back, want 0", got)
			}
		}
		all := m.believed()
		after = all["api-1"]
		return all != nil
	})
	if !after.out() || after.Epoch < before.Epoch {
		t.Errorf("the verdict after the restart: got %+v, want what it was, %+v, or later", after, before)
	}
	eventually(t, "all callers connected again", func() bool {
		for _, c := range callers {
			if !look(c).Sidecar.ControlPlane.Connected {
				return false
			}
		}
		return true
	})
	for _, c := range callers {
		if got := share(c, "api-1"); got != 0 {
			t.Errorf("a caller gives the crashed endpoint %v of its share after the restart, want 0", got)
		}
	}
	sent, failed := stop()
	if sent == 0 || len(failed) > 0 {
		t.Errorf("%d of %d requests failed, the first with %v; want none", len(failed), sent, failed[0])
	}

	// The callers have written down what they were told: at the latest on their way out.
	callers[0].signal(syscall.SIGTERM)
	if code := callers[0].exit(); code != 0 {
		t.Errorf("a caller's exit code: got %d, want 0", code)
	}
	m.control.kill()
	again := m.caller(0, fmt.Sprintf("state_dir: %s\n", filepath.Join(saved, "0")))
	for range 10 {
		if got := get(again.address("web"), "/"); got.status != http.StatusOK || got.body == "api-1" {
			t.Errorf("without a control plane: got %v, want an answer of a live endpoint", got)
		}
	}
	if cp := look(again).Sidecar.ControlPlane; cp.Connected || cp.From != "state" || cp.Age == "" {
		t.Errorf("resources: got %+v, want those of the state directory with their age", cp)
	}
	status := launch(t, "sidecar", "status", "-address", again.address("admin"))
	status.exit()
	contain(t, "sidecar status", status.out.String(), "NOT CONNECTED, resources from state, ", " old")
}

// An instance that is taken down says so first: callers leave before it refuses them,
// and nobody takes it for dead.
func TestAnInstanceLeavesWithoutALoss(t *testing.T) {
	var inbound []*process
	var backends []*fakeupstream.Backend
	var endpoints []string
	m := newMesh(t)
	for i := range 2 {
		b := application(t, fakeupstream.Config{Body: fmt.Appendf(nil, "api-%d", i)})
		p := sidecar(t, fmt.Sprintf(`
node: {id: beside-%d, cluster: api}
control_plane: {addresses: ["%s"]}
inbound: [{name: in, address: "127.0.0.1:0", application: "%s", instance: api-%[1]d}]
`, i, m.xds, b.Addr())).ready()
		inbound, backends = append(inbound, p), append(backends, b)
		endpoints = append(endpoints, fmt.Sprintf(`{address: "%s", instance: api-%d, inbound: true, sidecar: beside-%[2]d}`, p.address("in"), i))
	}
	m.file(endpoints)
	m.control.signal(syscall.SIGHUP)
	caller := m.caller(0, "")
	eventually(t, "a caller that knows both instances", func() bool { return share(caller, "api-0") > 0 && share(caller, "api-1") > 0 })
	stop := load([]*process{caller})
	eventually(t, "some traffic at each instance", func() bool {
		return backends[0].Counts().Requests > 20 && backends[1].Counts().Requests > 20
	})
	inbound[1].signal(syscall.SIGTERM)
	if code := inbound[1].exit(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	before := backends[0].Counts().Requests
	eventually(t, "traffic at the other instance", func() bool { return backends[0].Counts().Requests > before+20 })
	sent, failed := stop()
	if sent == 0 || len(failed) > 0 {
		t.Errorf("%d of %d requests failed, the first with %v; want none", len(failed), sent, failed[0])
	}
	if got := m.believed()["api-1"]; got.State != "draining" {
		t.Errorf("the control plane believes %+v of the instance that has left, want draining", got)
	}
	metrics := caller.admin("/metrics")
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, "overhear_endpoint_attempts_total") && strings.Contains(line, `endpoint="api-1",outcome="conn"`) && !strings.HasSuffix(line, " 0\n") {
			t.Errorf("attempts on it failed: %s", line)
		}
	}
}
