package e2e_test

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/test/envoy"
	"github.com/overhear-mesh/overhear/xds/ingest"
)

// probing is health discovery with one real Envoy.
type probing struct {
	came    chan *ingest.Prober
	answers chan ingest.Answer
}

func (p *probing) Arrive(one *ingest.Prober)                { p.came <- one }
func (p *probing) Probed(_ *ingest.Prober, a ingest.Answer) { p.answers <- a }
func (p *probing) Depart(*ingest.Prober)                    {}

const healthDiscovery = `
hds_config: { api_type: GRPC, transport_api_version: V3, grpc_services: [ { envoy_grpc: { cluster_name: xds } } ] }`

func startProbing(t *testing.T) (*ingest.Prober, *probing) {
	t.Helper()
	envoy.Find(t)
	p := &probing{came: make(chan *ingest.Prober, 16), answers: make(chan ingest.Answer, 1024)}
	began := time.Now()
	g := ingest.NewProbing(ingest.DefaultConfig(), 8, p, func() time.Duration { return time.Hour + time.Since(began) }, slog.New(slog.DiscardHandler))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	g.Register(server)
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { server.Stop(); g.Wait() })
	envoy.Start(t, bootstrap(ln.Addr().String(), healthDiscovery, "[]", ""))
	select {
	case one := <-p.came:
		return one, p
	case <-time.After(2 * time.Minute):
		t.Fatal("no Envoy asks what to probe")
		return nil, nil
	}
}

// probe orders one and waits for what comes of it.
func (p *probing) probe(t *testing.T, by *ingest.Prober, one ingest.Probe) ingest.Answer {
	t.Helper()
	if !by.Order(one) {
		t.Fatal("one probe is too many")
	}
	for {
		select {
		case a := <-p.answers:
			if a.ID == one.ID {
				return a
			}
		case <-time.After(2 * time.Minute):
			t.Fatal("no answer, not even that there is none")
		}
	}
}

func listening(t *testing.T, h http.HandlerFunc) netip.AddrPort {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

// refusing is an address where nothing listens.
func refusing(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(ln.Addr().String())
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	return at
}

// silent is an address that answers nothing: the queue of a listener that takes nobody is
// full, and what comes then is dropped.
func silent(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(name.(*syscall.SockaddrInet4).Port))
	for range 100 {
		c, err := net.DialTimeout("tcp", at.String(), 300*time.Millisecond)
		if err != nil {
			return at
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Skip("a full queue turns nobody away here")
	return at
}

func TestARealEnvoyTellsWhatIsWellFromWhatIsRefusedAndFromWhatHangs(t *testing.T) {
	by, p := startProbing(t)
	release := make(chan struct{})
	fine := listening(t, func(http.ResponseWriter, *http.Request) {})
	sick := listening(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	hung := listening(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) })
	gone := refusing(t)
	app := ingest.Check{HTTP: true, Path: "/healthz"}
	id := merge.OrderID(0)
	for _, tc := range []struct {
		name  string
		at    netip.AddrPort
		check ingest.Check
		want  outlier.ProbeResult
		level outlier.Level
	}{
		{"a port that is open", fine, ingest.Check{}, outlier.ProbeOK, outlier.LevelConnect},
		{"a port that is closed", gone, ingest.Check{}, outlier.Refused, outlier.LevelConnect},
		{"a port that is open though the application is sick", sick, ingest.Check{}, outlier.ProbeOK, outlier.LevelConnect},
		{"a port that says nothing", silent(t), ingest.Check{}, outlier.TimedOut, outlier.LevelConnect},
		{"an application that answers", fine, app, outlier.ProbeOK, outlier.LevelApp},
		{"an application that is not there", gone, app, outlier.Refused, outlier.LevelConnect},
		{"an application that says that it is sick", sick, app, outlier.Unhealthy, outlier.LevelApp},
		{"an application that hangs", hung, app, outlier.TimedOut, outlier.LevelApp},
	} {
		t.Run(tc.name, func(t *testing.T) {
			// On a machine that is too busy an answer may not come in time, or not be
			// waited for. Another one must never come.
			for end := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
				id++
				a := p.probe(t, by, ingest.Probe{ID: id, Address: tc.at, Check: tc.check, Timeout: time.Second})
				if a.Result == tc.want && a.Level == tc.level {
					return
				}
				if a.Result != outlier.NotRun && a.Result != outlier.TimedOut || time.Now().After(end) {
					t.Fatalf("%s at %s level, want %s at %s level", a.Result, a.Level, tc.want, tc.level)
				}
			}
		})
	}
}

// What an Envoy has not come to yet it reports as it does what was refused, in the middle of
// other checks too.
func TestARealEnvoyIsNeverTakenToRefuseForWhatItHasNotProbedYet(t *testing.T) {
	by, p := startProbing(t)
	fine, mute := listening(t, func(http.ResponseWriter, *http.Request) {}), silent(t)
	for round := range 5 {
		orders := map[merge.OrderID]netip.AddrPort{}
		for i := range 8 {
			id := merge.OrderID(1 + 8*round + i)
			at := fine
			if i%2 == 1 {
				at = mute
			}
			if by.Order(ingest.Probe{ID: id, Address: at, Timeout: 300 * time.Millisecond}) {
				orders[id] = at
			}
			time.Sleep(17 * time.Millisecond) // out of step with the reports
		}
		for len(orders) > 0 {
			select {
			case a := <-p.answers:
				if a.Result == outlier.Refused || a.Result == outlier.ProbeOK && orders[a.ID] == mute {
					t.Errorf("a probe of %s (%s answers) ended %s", orders[a.ID], fine, a.Result)
				}
				delete(orders, a.ID)
			case <-time.After(2 * time.Minute):
				t.Fatal("no answer, not even that there is none")
			}
		}
		time.Sleep(time.Second) // for the next eight to be allowed
	}
}
