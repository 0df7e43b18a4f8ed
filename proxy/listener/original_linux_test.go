package listener_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/overhear-mesh/overhear/proxy/listener"
)

// accepted is the listener's end of a connection to it.
func accepted(t *testing.T, ln net.Listener, to string) net.Conn {
	t.Helper()
	client, err := net.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestAConnectionThatNobodyRedirectedHasNoOtherDestination(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", "[::]:0"} {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("%s: %v", address, err) // a machine without IPv6
			continue
		}
		if got, err := listener.OriginalDestination(accepted(t, ln, ln.Addr().String())); !errors.Is(err, listener.ErrNotRedirected) {
			t.Errorf("%s: got %v and %v, want %v", address, got, err, listener.ErrNotRedirected)
		}
		ln.Close()
	}
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	if got, err := listener.OriginalDestination(ours); !errors.Is(err, listener.ErrNotRedirected) {
		t.Errorf("a pipe: got %v and %v, want %v", got, err, listener.ErrNotRedirected)
	}
}

// inside is set in the process that has a network of its own.
const inside = "OVERHEAR_TEST_NETWORK"

// The test runs itself again in a network namespace, where it may redirect.
func TestTheKernelTellsWhereARedirectedConnectionWasToGo(t *testing.T) {
	if os.Getenv(inside) == "" {
		again := exec.CommandContext(t.Context(), "unshare", "--map-root-user", "--net", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		again.Env = append(os.Environ(), inside+"=1")
		out, err := again.CombinedOutput()
		switch {
		case strings.Contains(string(out), "--- PASS: "+t.Name()):
		case strings.Contains(string(out), "=== RUN") && !strings.Contains(string(out), "--- SKIP: "+t.Name()):
			t.Errorf("%v\n%s", err, out)
		default:
			t.Skipf("no network of its own here, or nothing to redirect with: %v\n%s", err, out)
		}
		return
	}
	setUp := func(command string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "sh", "-c", command).CombinedOutput(); err != nil {
			t.Skipf("%s: %v\n%s", command, err, out)
		}
	}
	setUp("ip link set lo up")
	for _, tt := range []struct{ name, listen, address, iptables, to string }{
		{"IPv4", "127.0.0.1:0", "10.9.9.9/32", "iptables", "10.9.9.9:81"},
		{"IPv4, on a socket for both", "[::]:0", "10.9.9.8/32", "iptables", "10.9.9.8:82"},
		{"IPv6", "[::1]:0", "fd00::9/128", "ip6tables", "[fd00::9]:83"},
	} {
		ln, err := net.Listen("tcp", tt.listen)
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		setUp("ip addr add " + tt.address + " dev lo")
		setUp(fmt.Sprintf("%s -t nat -A OUTPUT -p tcp -d %s -j REDIRECT --to-ports %s", tt.iptables, tt.address, port))
		got, err := listener.OriginalDestination(accepted(t, ln, tt.to))
		if err != nil || got.String() != tt.to {
			t.Errorf("%s: got %v and %v, want %s", tt.name, got, err, tt.to)
		}
		ln.Close()
	}
}
