package controlplane_test

import (
	"testing"
	"testing/synctest"

	statusv3 "github.com/envoyproxy/go-control-plane/envoy/service/status/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/overhear-mesh/overhear/xds/client"
	"github.com/overhear-mesh/overhear/xds/controlplane"
)

func TestClientStatusIsToldOnThisMachineOrForTheToken(t *testing.T) {
	for _, tc := range []struct {
		name, token, authorization string
		want                       codes.Code
	}{
		{"the token", token, "Bearer " + token, codes.OK},
		{"no token", token, "", codes.Unauthenticated},
		{"another token", token, "Bearer another", codes.Unauthenticated},
		{"another scheme", token, "Basic " + token, codes.Unauthenticated},
		{"none is set", "", "", codes.PermissionDenied},
		{"none is set, an empty one", "", "Bearer ", codes.PermissionDenied},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(c *controlplane.Config) { c.APIToken = tc.token })
				w.opened()
				cc, err := client.Dial([]string{xdsAddr}, client.DialOptions{Dialer: w.net.Host("10.9.0.1").Dial})
				if err != nil {
					t.Fatal(err)
				}
				defer cc.Close()
				ctx := t.Context()
				if tc.authorization != "" {
					ctx = metadata.AppendToOutgoingContext(ctx, "authorization", tc.authorization)
				}
				_, err = statusv3.NewClientStatusDiscoveryServiceClient(cc).FetchClientStatus(ctx, &statusv3.ClientStatusRequest{})
				if got := status.Code(err); got != tc.want {
					t.Errorf("got %v, want %s", err, tc.want)
				}
			})
		})
	}
}
