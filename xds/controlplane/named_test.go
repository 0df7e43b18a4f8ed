package controlplane

import (
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/ingest"
	"github.com/overhear-mesh/overhear/xds/registry"
)

func TestAGRPCClientIsUnderstoodByItsTargetAndAddresses(t *testing.T) {
	api, db := registry.NewService("api"), registry.NewService("db")
	api.Hosts = []string{"api.mesh:80", "db"} // which is another service's name
	api.Endpoints = []registry.Endpoint{{Address: netip.MustParseAddrPort("10.0.0.1:80"), Instance: "api-1"}}
	db.Endpoints = []registry.Endpoint{{Address: netip.MustParseAddrPort("10.0.0.1:80")}, {Address: netip.MustParseAddrPort("[::ffff:10.0.0.2]:80"), Instance: "db-2"}}
	var a addresses
	if _, ok := a.named(merge.Key{Service: "api"}); ok {
		t.Error("something is known before there is a mesh")
	}
	a.learn(&registry.Mesh{Services: []registry.Service{api, db}}, 0)
	for known, want := range map[merge.Key]merge.Key{
		{Service: "api", Instance: "10.0.0.1:80"}:         {Service: "api", Instance: "api-1"},
		{Service: "api.mesh:80", Instance: "10.0.0.1:80"}: {Service: "api", Instance: "api-1"},
		{Service: "api.mesh:80"}:                          {Service: "api"},
		{Service: "db", Instance: "10.0.0.1:80"}:          {Service: "db", Instance: "10.0.0.1:80"},
		{Service: "db", Instance: "10.0.0.2:80"}:          {Service: "db", Instance: "db-2"},
		{Service: "db", Instance: "10.0.0.3:80"}:          {},
		{Service: "db", Instance: "db-2"}:                 {},
		{Service: "nobody"}:                               {},
	} {
		got, ok := a.named(known)
		if ok != (want != merge.Key{}) || ok && got != want {
			t.Errorf("%+v is %+v (%t), want %+v", known, got, ok, want)
		}
	}
}

func TestWhereAnEndpointWasIsRememberedForAWhile(t *testing.T) {
	at := func(ports ...uint16) (all []registry.Endpoint) {
		for _, p := range ports {
			all = append(all, registry.Endpoint{Address: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), p)})
		}
		return all
	}
	var a addresses
	for _, step := range []struct {
		now       time.Duration
		endpoints []registry.Endpoint
		former    map[uint16]time.Duration
	}{
		{0, at(1, 2, 3), nil},
		{time.Second, at(1, 2, 3), nil},
		{2 * time.Second, at(1), map[uint16]time.Duration{2: 2 * time.Second, 3: 2 * time.Second}},
		{3 * time.Second, at(3), map[uint16]time.Duration{1: 3 * time.Second, 2: 2 * time.Second}},
		{2*time.Second + ingest.FormerFor, at(3), map[uint16]time.Duration{1: 3 * time.Second}},
		{time.Hour, at(3), nil},
	} {
		api := registry.NewService("api")
		api.Endpoints = step.endpoints
		a.learn(&registry.Mesh{Services: []registry.Service{api}}, step.now)
		s, _ := a.Service("api")
		got := map[uint16]time.Duration{}
		for address, left := range s.Former {
			got[address.Port()] = left
		}
		if !maps.Equal(got, step.former) {
			t.Errorf("after %v: %v, want %v", step.now, got, step.former)
		}
	}
}
