package tcp_test

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/tcp"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

// With the real cluster behind it: a crash costs no new connection, and the dead
// endpoint is soon left alone.
func TestACrashCostsNoNewConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 0)
		cfg := cluster.DefaultConfig()
		cfg.Name, cfg.Protocol = "db", cluster.TCP
		c := cluster.New(cfg, cluster.Deps{Clock: b.clock, Dial: b.net.Host("10.0.0.1").Dial, Seed: 1})
		var specs []cluster.Spec
		for i := range 4 {
			address := fmt.Sprintf("10.0.1.%d:80", i+1)
			specs = append(specs, cluster.Spec{ID: address, Address: address})
			b.server(i, func(c *pipenet.Conn) { echo(c) })
		}
		c.Update(specs)
		ctx, stop := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- c.Run(ctx) }()
		b.serve("10.0.0.1", ":15001", tcp.Deps{Clock: b.clock, Cluster: c, Log: b})

		// connect makes a connection every 5 ms and counts failed attempts.
		connect := func(n int) (failed int) {
			for range n {
				time.Sleep(5 * time.Millisecond)
				conn := b.dial()
				say(conn, "hello")
				if err := conn.CloseWrite(); err != nil {
					t.Error(err)
				}
				if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
					t.Errorf("at %v: got %q, %v; want hello", b.clock.Now(), got, err)
				}
				conn.Close()
				for _, a := range b.record().Attempts {
					if a.Class != outlier.OK {
						failed++
					}
				}
			}
			return failed
		}
		if got := connect(400); got != 0 {
			t.Errorf("while all is well: %d failed attempts", got)
		}
		b.net.Host("10.0.1.2").Crash()
		if got := connect(100); got == 0 || got > 10 {
			t.Errorf("in the half second after the crash: %d failed attempts, want 1 to 10", got)
		}
		if got := connect(40); got != 0 {
			t.Errorf("afterwards: %d failed attempts, want 0", got)
		}
		stop()
		if err := <-ran; err != nil {
			t.Errorf("the cluster: %v", err)
		}
	})
}
