package conformance

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/interop"
)

// cases are those of gRPC's interop client
// (https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md), but for
// those that need credentials of a cloud, and for pick_first_unary, orca_per_rpc and
// orca_oob: they are about the client's own balancing, which this client program is
// told by xDS, and fail without a sidecar in between as well.
var cases = []string{
	"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
	"timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response",
	"status_code_and_message", "special_status_message", "custom_metadata",
	"unimplemented_method", "unimplemented_service", "rpc_soak", "channel_soak",
}

// soaks is how long the two soaks may take: they are not about speed, and the machine may
// be busy.
var soaks = []string{"-soak_per_iteration_max_acceptable_latency_ms", "30000", "-soak_overall_timeout_seconds", "60"}

// TestGRPCInterop has the client call through an outbound sidecar, and that one through
// an inbound sidecar.
func TestGRPCInterop(t *testing.T) {
	dir := built(t, "grpc-interop-"+grpc.Version, func(dir string) *exec.Cmd {
		return exec.Command("go", "build", "-o", dir+"/", "google.golang.org/grpc/interop/client", "google.golang.org/grpc/interop/server")
	})
	application := interopServer(t, filepath.Join(dir, "server"))
	in := sidecar(t, fmt.Sprintf(`
inbound:
  - {name: in, address: "127.0.0.1:0", protocol: auto, application: %q, service: interop, instance: a}
`, application))
	out := sidecar(t, fmt.Sprintf(`
outbound:
  - name: out
    address: "127.0.0.1:0"
    protocol: http2
    routes: [{cluster: interop, timeout: 0s}]
clusters:
  - {name: interop, protocol: http2, endpoints: [{address: "127.0.0.1:%s", inbound: true}]}
`, port(t, in, "in")))
	for _, name := range cases {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			args := append([]string{"-server_host", "127.0.0.1", "-server_port", port(t, out, "out"), "-test_case", name}, soaks...)
			text, err := exec.CommandContext(ctx, filepath.Join(dir, "client"), args...).CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, text)
			}
		})
	}
}

// interopServer runs the other end, and returns its address.
func interopServer(t *testing.T, program string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-port", port)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has no other end
		_ = cmd.Wait()
	})
	for range 200 {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return address
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatal("the interop server does not listen")
	return ""
}
