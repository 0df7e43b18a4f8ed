package controlplane

import (
	"net/netip"
	"testing"

	"github.com/overhear-mesh/overhear/outlier/merge"
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
	a.learn(&registry.Mesh{Services: []registry.Service{api, db}})
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
