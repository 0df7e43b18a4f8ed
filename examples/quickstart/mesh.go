package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/config"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/test/fakeupstream"
	program "github.com/overhear-mesh/overhear/test/process"
	"github.com/overhear-mesh/overhear/test/trial"
)

const (
	instances = 6
	callers   = 5
)

// mesh is everything that runs: the control plane and the sidecars beside the
// instances as processes, the applications and the callers' sidecars in this one.
type mesh struct {
	ctx     context.Context
	dir     string
	started time.Time
	ledger  *ledger
	story   *narrator

	binaries  map[string]string // by command
	xds, http string            // the control plane's addresses
	control   *process
	instances []*instance
	callers   []*caller
	running   sync.WaitGroup // callers' sidecars and the reader of events
	failure   chan error     // what must not end has ended
}

// instance is one instance of the service: an application with a sidecar.
type instance struct {
	name, zone  string
	address     string // of the sidecar, where the mesh finds it
	application *fakeupstream.Backend
	config      string
	sidecar     *process
}

// caller is one caller: users, a sidecar, and the network between it and the rest.
type caller struct {
	name, zone string
	sidecar    *proxy.Sidecar
	network    *network
	user       *user
}

// controlEvent is an event of the control plane, as its API tells it.
type controlEvent struct {
	Cursor   uint64    `json:"cursor"`
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"`
	Endpoint string    `json:"endpoint"`
	Reporter string    `json:"reporter"`
	Scope    string    `json:"scope"`
	From     string    `json:"from"`
	To       string    `json:"to"`
	Rule     string    `json:"rule"`
	Text     string    `json:"text"`
}

// network is what a caller's sidecar dials through, so that it can be broken for
// this caller alone.
type network struct {
	broken atomic.Bool
	spared string // the control plane's address
	dialer net.Dialer
	mu     sync.Mutex // guards open
	open   map[net.Conn]struct{}
}

func (n *network) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if address == n.spared {
		return n.dialer.DialContext(ctx, network, address)
	}
	if n.broken.Load() {
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}
	}
	c, err := n.dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open[c] = struct{}{}
	return &tracked{c.(*net.TCPConn), n}, nil
}

// tracked is a connection that its network can cut.
type tracked struct {
	*net.TCPConn
	network *network
}

func (t *tracked) Close() error {
	t.network.mu.Lock()
	delete(t.network.open, t.TCPConn)
	t.network.mu.Unlock()
	return t.TCPConn.Close()
}

// cut breaks the network: no connection can be opened, those that are open die.
func (n *network) cut() {
	n.broken.Store(true)
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.open {
		_ = c.(*net.TCPConn).SetLinger(0) // reset, as seen from both ends
		_ = c.Close()
	}
	clear(n.open)
}

func (n *network) mend() { n.broken.Store(false) }

// process is a binary that runs.
type process struct {
	command *exec.Cmd
	ended   chan struct{}
	log     string
}

func startProcess(log, path string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the process has its own
	p := &process{command: exec.Command(path, args...), ended: make(chan struct{}), log: log}
	p.command.Stdout, p.command.Stderr = out, out
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.ended)
		_ = p.command.Wait() // how it ended is in its log
	}()
	return p, nil
}

// kill ends the process as a crash would.
func (p *process) kill() {
	_ = p.command.Process.Kill() // it may have ended
	<-p.ended
}

// stop ends the process as an orchestrator would.
func (p *process) stop() {
	_ = p.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(5 * time.Second):
		p.kill()
	}
}

// startMesh starts everything and waits until every part is ready.
func startMesh(ctx context.Context, dir string, rate float64, l *ledger, story *narrator) (*mesh, error) {
	m := &mesh{
		ctx: ctx, dir: dir, ledger: l, story: story, binaries: map[string]string{},
		failure: make(chan error, callers+1),
	}
	err := errors.Join(m.build(), m.reserve())
	if err != nil {
		return nil, err
	}
	m.started = time.Now()
	for _, step := range []func() error{m.startApplications, m.writeConfigs, m.startControl, m.startInstances, func() error { return m.startCallers(rate) }} {
		if err := step(); err != nil {
			m.stop()
			return nil, err
		}
	}
	m.running.Go(m.follow)
	return m, nil
}

// build compiles the two commands: what is shown is what would be deployed.
func (m *mesh) build() error {
	for _, name := range []string{"sidecar", "controlplane"} {
		path := filepath.Join(m.dir, name)
		out, err := exec.CommandContext(m.ctx, "go", "build", "-o", path, "github.com/overhear-mesh/overhear/cmd/"+name).CombinedOutput()
		if err != nil {
			return fmt.Errorf("go build ./cmd/%s: %w\n%s", name, err, out)
		}
		m.binaries[name] = path
	}
	return nil
}

// reserve finds free ports for those processes that others must find.
func (m *mesh) reserve() error {
	var errs []error
	free := func() string {
		address, err := program.FreeAddress()
		errs = append(errs, err)
		return address
	}
	m.xds, m.http = free(), free()
	for i := range instances {
		zone := "a"
		if i >= instances/2 {
			zone = "b"
		}
		m.instances = append(m.instances, &instance{name: fmt.Sprintf("api-%d", i+1), zone: zone, address: free()})
	}
	return errors.Join(errs...)
}

func (m *mesh) startApplications() error {
	for _, in := range m.instances {
		var err error
		if in.application, err = fakeupstream.Start(m.ctx, fakeupstream.Config{Address: "127.0.0.1:0", Latency: time.Millisecond}); err != nil {
			return err
		}
	}
	return nil
}

func (m *mesh) writeConfigs() error {
	var mesh bytes.Buffer
	fmt.Fprintf(&mesh, "control_plane:\n  xds: %s\n  http: %s\n  state_dir: %s\nservices:\n  - name: api\n    endpoints:\n", m.xds, m.http, filepath.Join(m.dir, "control-state"))
	for _, in := range m.instances {
		fmt.Fprintf(&mesh, "      - {address: \"%s\", instance: %s, zone: %s, node: host-%s, sidecar: %s-sidecar, inbound: true}\n", in.address, in.name, in.zone, in.name, in.name)
		in.config = filepath.Join(m.dir, in.name+".yaml")
		text := fmt.Sprintf(`node: {id: %s-sidecar, cluster: api, zone: %s, labels: {node: host-%s}}
admin: {address: "off"}
control_plane: {addresses: ["%s"]}
drain: {timeout: 1s, notice: 0s}
inbound:
  - {address: "%s", application: "%s", service: api, instance: %s}
`, in.name, in.zone, in.name, m.xds, in.address, in.application.Addr(), in.name)
		if err := os.WriteFile(in.config, []byte(text), 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(m.meshFile(), mesh.Bytes(), 0o600)
}

func (m *mesh) meshFile() string { return filepath.Join(m.dir, "mesh.yaml") }

func (m *mesh) startControl() error {
	var err error
	if m.control, err = startProcess(filepath.Join(m.dir, "controlplane.log"), m.binaries["controlplane"], "run", "-c", m.meshFile()); err != nil {
		return err
	}
	return m.wait("the control plane", m.control.log, func() error {
		res, err := http.Get("http://" + m.http + "/ready")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("it answers %s", res.Status)
		}
		return nil
	})
}

func (m *mesh) startInstances() error {
	for _, in := range m.instances {
		if err := m.startInstance(in); err != nil {
			return err
		}
	}
	return nil
}

func (m *mesh) startInstance(in *instance) error {
	var err error
	log := filepath.Join(m.dir, in.name+".log")
	if in.sidecar, err = startProcess(log, m.binaries["sidecar"], "run", "-c", in.config); err != nil {
		return err
	}
	return m.wait("the sidecar of "+in.name, log, func() error {
		c, err := net.Dial("tcp", in.address)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// startCallers starts the callers' sidecars in this process, each with a network
// of its own that can be broken, and listens to what they carry.
func (m *mesh) startCallers(rate float64) error {
	for i := range callers {
		zone := "a"
		if i > callers/2 {
			zone = "b"
		}
		c := &caller{name: fmt.Sprintf("caller-%d", i+1), zone: zone}
		c.network = &network{spared: m.xds, open: map[net.Conn]struct{}{}}
		cfg := config.DefaultConfig()
		cfg.Node = config.Node{ID: c.name, Zone: zone, Labels: map[string]string{"node": "host-" + c.name}}
		cfg.Admin.Address = "off"
		cfg.ControlPlane.Addresses = []string{m.xds}
		cfg.StateDir = filepath.Join(m.dir, c.name)
		cfg.Drain.Timeout = time.Second
		cfg.Outbound = []config.Outbound{{Name: "api", Address: "127.0.0.1:0", Cluster: "api"}}
		var err error
		c.sidecar, err = proxy.New(cfg, proxy.Options{
			Version: "quickstart",
			Dial:    c.network.dial,
			OnRequest: func(_ string, r *exchange.Record) {
				m.heard(c, r)
			},
			OnEvent: func(e cluster.Event) { m.believed(c, e) },
		})
		if err != nil {
			return err
		}
		m.callers = append(m.callers, c)
		m.running.Go(func() {
			if err := c.sidecar.Run(m.ctx); err != nil {
				m.failure <- fmt.Errorf("%s: %w", c.name, err)
			}
		})
		if err := m.wait(c.name, "", func() error {
			if why := c.sidecar.Ready(); why != "" {
				return errors.New(why)
			}
			if got := len(endpointsOf(c.sidecar)); got != instances {
				return fmt.Errorf("it knows %d of %d endpoints", got, instances)
			}
			return nil
		}); err != nil {
			return err
		}
		c.user = newUser(c.sidecar.Addr("api").String(), rate/callers)
	}
	return nil
}

func endpointsOf(s *proxy.Sidecar) []cluster.EndpointStatus {
	for _, c := range s.Clusters() {
		if c.Name() == "api" {
			if snapshot := c.Snapshot(); snapshot != nil {
				return snapshot.Endpoints
			}
		}
	}
	return nil
}

// heard notes a request that a caller's sidecar has carried, with its attempts.
func (m *mesh) heard(c *caller, r *exchange.Record) {
	ended := time.Since(m.started)
	began := ended - r.Duration
	q := request{
		at: began, ended: ended, caller: c.name, failed: r.Status != http.StatusOK,
		repeatable: string(r.Method) == http.MethodGet,
	}
	if q.failed {
		q.outcome = fmt.Sprintf("status %d, flags %s %s", r.Status, r.Flags, r.Detail)
	}
	for _, a := range r.Attempts {
		q.endpoint = a.Endpoint.ID
		m.ledger.addAttempt(attempt{
			at: began + a.Offset, ended: began + a.Offset + a.Duration, caller: c.name, endpoint: a.Endpoint.ID,
			failed: a.Class.Failure(), class: a.Class.String(),
		})
	}
	m.ledger.addRequest(q)
}

// believed notes what a caller's sidecar changed its mind about.
func (m *mesh) believed(c *caller, e cluster.Event) {
	for _, change := range e.Changes {
		if change.Refused != "" {
			continue
		}
		at := time.Since(m.started)
		m.ledger.addBelief(belief{
			at: at, observer: c.name, endpoint: change.ID, state: change.To.String(), rule: change.Rule.String(),
		})
		m.story.believes(at, c.name, change)
	}
}

// follow reads the control plane's events, over its restarts too.
func (m *mesh) follow() {
	var cursor uint64
	for m.ctx.Err() == nil {
		if err := m.followOnce(&cursor); err != nil && m.ctx.Err() == nil {
			cursor = 0 // another life of the control plane numbers from the start
			select {
			case <-m.ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

func (m *mesh) followOnce(cursor *uint64) error {
	req, err := http.NewRequestWithContext(m.ctx, http.MethodGet, fmt.Sprintf("http://%s/api/v1/events?follow=true&after=%d", m.http, *cursor), nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		var e controlEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return err
		}
		*cursor = e.Cursor
		if e.Kind == "verdict" {
			m.ledger.addBelief(belief{
				at: e.Time.Sub(m.started.Round(0)), fleet: true, endpoint: e.Endpoint, state: e.To, scope: e.Scope, rule: e.Rule, reason: e.Text,
			})
		}
		m.story.control(e)
	}
	return errors.Join(lines.Err(), errors.New("the stream of events ended"))
}

// wait tries until it works, for at most 30 s; if it does not, the end of the log says why.
func (m *mesh) wait(what, log string, try func() error) error {
	err := trial.Wait(m.ctx, what, try)
	if err == nil {
		return nil
	}
	if text, readErr := os.ReadFile(log); readErr == nil {
		return fmt.Errorf("%w\n%s", err, text[max(0, len(text)-2000):])
	}
	return err
}

// stop ends everything. The callers' sidecars end with the mesh's context.
func (m *mesh) stop() {
	m.running.Wait()
	for _, in := range m.instances {
		if in.sidecar != nil {
			in.sidecar.stop()
		}
		if in.application != nil {
			in.application.Close()
		}
	}
	if m.control != nil {
		m.control.stop()
	}
}

func (m *mesh) instance(name string) *instance {
	for _, in := range m.instances {
		if in.name == name {
			return in
		}
	}
	panic("no instance " + name) // a fault's definition is wrong
}

// out says whether a state is one in which an endpoint gets no ordinary traffic.
func out(state string) bool {
	return state == outlier.Ejected.String() || state == outlier.Suspended.String()
}
