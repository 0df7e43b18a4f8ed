package report

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/reportpb"
)

// byAddress is what a gRPC client calls an instance of api.
var byAddress = merge.Key{Service: "api.mesh", Instance: "10.0.0.1:8080"}

// observed reads what a reporter that only observes says of the endpoint at byAddress.
func observed(t *testing.T, d *decoder, at time.Duration, declare bool, counts outlier.Counts, edit func(*reportpb.EndpointReport)) decoded {
	t.Helper()
	e := &reportpb.EndpointReport{Ref: 1, Counts: encodeCounts(counts)}
	if edit != nil {
		edit(e)
	}
	up := &reportpb.Up{MonoMs: millis(at), Report: &reportpb.Report{
		Endpoints: []*reportpb.EndpointReport{e},
		Clusters:  []*reportpb.ClusterReport{{Service: byAddress.Service, N: 5}},
	}}
	if declare {
		up.Declare = []*reportpb.Declare{{Ref: 1, Key: encodeKey(byAddress)}}
	}
	return d.decode(up, at)
}

func observer(reg registry) *decoder {
	return &decoder{authority: reg, node: "client-1", seen: map[uint32]*sighting{}}
}

func addressed() registry {
	return registry{sent: map[string]bool{"api": true}, named: map[merge.Key]merge.Key{
		byAddress: api1, {Service: byAddress.Service}: {Service: "api"},
	}}
}

func TestAReporterThatKnowsAddressesSpeaksOfTheInstancesBehindThem(t *testing.T) {
	out := observed(t, observer(addressed()), time.Second, true, outlier.Counts{N: 5, Server: 1}, nil)
	if len(out.report.Cells) != 1 || out.report.Cells[0].Key != api1 || out.report.Cells[0].Counts.N != 5 || len(out.aside.Counts) > 0 {
		t.Errorf("cells %+v, refused %v", out.report.Cells, out.aside.Counts)
	}
	if len(out.report.Clusters) != 1 || out.report.Clusters[0].Service != "api" {
		t.Errorf("totals %+v, want those of api", out.report.Clusters)
	}
	refs := map[merge.Key]uint32{}
	for k, ref := range out.declared {
		refs[k.Value()] = ref
	}
	if refs[api1] != 1 { // orders name the instance
		t.Errorf("names %v, want 1 for %v", refs, api1)
	}
}

func TestAnAddressThatNobodyKnowsIsRefusedUntilItIsKnown(t *testing.T) {
	reg := addressed()
	delete(reg.named, byAddress)
	d := observer(reg)
	out := observed(t, d, time.Second, true, outlier.Counts{N: 5}, nil)
	if len(out.report.Cells) != 0 || out.aside.Counts[NotSent] != 1 {
		t.Errorf("cells %+v, refused %v, want one of not_sent", out.report.Cells, out.aside.Counts)
	}
	reg.named[byAddress] = api1
	out = observed(t, d, 2*time.Second, false, outlier.Counts{N: 6}, nil)
	if len(out.report.Cells) != 1 || out.report.Cells[0].Key != api1 {
		t.Errorf("when it is known the cells are %+v", out.report.Cells)
	}
}

func TestAnotherInstanceAtAnAddressInheritsNothing(t *testing.T) {
	reg := addressed()
	d := observer(reg)
	observed(t, d, 10*time.Second, true, outlier.Counts{N: 100, Conn: 40}, nil)
	reg.named[byAddress] = api2
	out := observed(t, d, 20*time.Second, false, outlier.Counts{N: 103, Conn: 41}, func(e *reportpb.EndpointReport) {
		e.LastHardStartMs, e.LastHardMs, e.Witness = 9_000, 9_500, reportpb.Level_LEVEL_CONNECT
		e.LastOkStartMs, e.LastOkMs = 9_000, 9_500
		e.History = []*reportpb.Point{{MonoMs: 9_000, N: 90, K: 30}, {MonoMs: 20_000, N: 102, K: 40}}
	})
	want := merge.Cell{
		Key: api2, Counts: outlier.Counts{N: 3, Conn: 1}, State: outlier.In,
		LastOK: never, LastOKStart: never, LastHard: never, LastHardStart: never,
		History: []merge.Point{{At: 20 * time.Second, N: 2}},
	}
	if diff := cmp.Diff([]merge.Cell{want}, out.report.Cells); diff != "" {
		t.Errorf("cells (-want +got):\n%s", diff)
	}
}
