package discovery

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/test/pipenet"
	"github.com/overhear-mesh/overhear/xds/resource"
	"github.com/overhear-mesh/overhear/xds/server"
)

const controlAddress = "10.0.0.9:15010"

// controlPlane serves resources to sidecars.
type controlPlane struct {
	t      *testing.T
	server *server.Server
	grpc   *grpc.Server
}

func startControlPlane(t *testing.T, n *pipenet.Network) *controlPlane {
	t.Helper()
	c := &controlPlane{t: t, server: server.New(server.DefaultConfig(), slog.New(slog.DiscardHandler)), grpc: grpc.NewServer(server.Options()...)}
	c.server.Register(c.grpc)
	ln, err := n.Host("10.0.0.9").Listen(t.Context(), "tcp", ":15010")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = c.grpc.Serve(ln) }() // ends with the test
	return c
}

func (c *controlPlane) publish(clusters []resource.Cluster, endpoints ...resource.Endpoints) {
	c.t.Helper()
	v := resource.View{Kind: resource.Overhear}
	messages := make(map[string]proto.Message)
	for _, k := range clusters {
		messages[k.Name] = resource.EncodeCluster(k, resource.Overhear)
	}
	assignments := make(map[string]proto.Message)
	for _, e := range endpoints {
		assignments[e.Service] = resource.EncodeEndpoints(e, resource.Overhear)
	}
	if err := c.server.SetResources(v, resource.TypeEndpoints, assignments); err != nil {
		c.t.Fatal(err)
	}
	if err := c.server.SetResources(v, resource.TypeCluster, messages); err != nil {
		c.t.Fatal(err)
	}
	c.server.Ready()
}

// settle gives messages time to arrive.
func settle() {
	time.Sleep(2 * time.Second)
	synctest.Wait()
}

func TestASidecarFollowsARealControlPlane(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	synctest.Test(t, func(t *testing.T) {
		n := pipenet.New(1)
		sidecar := n.Host("10.0.0.1")
		cc, err := Connect([]string{controlAddress}, sidecar.Dial)
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		d := New(Config{XDS: XDS(Node{ID: "sidecar-1", Zone: "a"}, nil, nil), StateDir: dir}, Deps{
			Cluster:      cluster.Deps{Clock: clock.New(), Dial: sidecar.Dial},
			ControlPlane: cc,
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run = %v, want nil", err)
			}
		}()

		t.Log("it comes up before its control plane")
		c := d.Lookup("api")
		time.Sleep(time.Second)
		cp := startControlPlane(t, n)
		two := assignment("api.eds", "10.0.1.1:80", "10.0.1.2:80")
		cp.publish([]resource.Cluster{api("api"), api("db")}, two, assignment("db.eds", "10.0.2.1:80"))
		settle()
		wantAddresses(t, c, "10.0.1.1:80", "10.0.1.2:80")
		wantAddresses(t, d.Lookup("db"), "10.0.2.1:80")
		if s := d.Status(); !s.Connected || s.Source != Control {
			t.Errorf("status %+v, want connected", s)
		}

		t.Log("a verdict")
		two.Endpoints[0].Verdict = outlier.Verdict{State: outlier.Ejected, Epoch: 4, Rule: outlier.RuleHard, Reason: "3 witnesses"}
		cp.publish([]resource.Cluster{api("api"), api("db")}, two, assignment("db.eds", "10.0.2.1:80"))
		settle()
		wantAddresses(t, c, "10.0.1.2:80")

		t.Log("the control plane is killed: what it said stays")
		cp.grpc.Stop()
		n.Host("10.0.0.9").Crash()
		settle()
		wantAddresses(t, c, "10.0.1.2:80")
		if s := d.Status(); s.Connected {
			t.Errorf("status %+v, want not connected", s)
		}

		t.Log("another takes its place, which has a cluster less and an endpoint more")
		cp = startControlPlane(t, n)
		defer cp.grpc.Stop()
		two.Endpoints = append(two.Endpoints, assignment("", "10.0.1.3:80").Endpoints...)
		cp.publish([]resource.Cluster{api("api")}, two)
		settle()
		settle()
		wantAddresses(t, c, "10.0.1.2:80", "10.0.1.3:80")
		wantAddresses(t, d.Lookup("db"))
	})
}
