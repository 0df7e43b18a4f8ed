package controlplane

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/overhear-mesh/overhear/xds/report"
)

func TestWhoJoinsWhileTheControlPlaneClosesComesAgain(t *testing.T) {
	l := &loop{ended: make(chan struct{})}
	close(l.ended)
	if err := (sink{loop: l}).Join(new(report.Stream)); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want Unavailable: it is no fault of the reporter", err)
	}
}
