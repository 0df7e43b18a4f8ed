package discovery

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/config"
	"github.com/overhear-mesh/overhear/xds/resource"
)

func someState() state {
	c := api("api")
	c.Policy.Ping = resource.Ping{Kind: resource.PingHTTP, Path: "/healthz"}
	c.ConnectTimeout = 250 * time.Millisecond
	a := assignment("api.eds", "10.0.0.1:80", "10.0.0.2:80")
	a.Endpoints[0].Instance, a.Endpoints[0].Zone, a.Endpoints[0].Inbound = "api-1", "a", true
	a.Endpoints[1].Verdict = outlier.Verdict{State: outlier.Ejected, Epoch: 9, Rule: outlier.RuleFast, Reason: "40 of 50 failed"}
	return state{Saved: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC), Clusters: messages(c), Endpoints: []resource.Endpoints{a}}
}

func encoded(tb testing.TB, s state) []byte {
	tb.Helper()
	data, err := encodeState(s)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func TestAStateIsReadAsItWasWritten(t *testing.T) {
	for name, s := range map[string]state{"some": someState(), "none": {Saved: time.Unix(0, 0).UTC()}} {
		got, err := decodeState(encoded(t, s))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(s, got, protocmp.Transform(), cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
			t.Errorf("%s (-written +read):\n%s", name, diff)
		}
	}
}

// An empty route configuration says that a listener is for nobody, also when it comes
// from the state directory.
func TestASavedListenerWithoutARuleIsForNobody(t *testing.T) {
	saved := state{Saved: time.Now(), Routes: []*routev3.RouteConfiguration{{Name: "r"}}, Listeners: []*listenerv3.Listener{listenerOf(t, "in", "r")}}
	dir := t.TempDir()
	if err := writeFile(filepath.Join(dir, stateFile), encoded(t, saved)); err != nil {
		t.Fatal(err)
	}
	var opened []config.Outbound
	d := New(Config{StateDir: dir, XDS: XDS(Node{ID: "n"}, nil, []string{"*"})}, Deps{ControlPlane: silent{}, Listeners: func(all []config.Outbound) error { opened = all; return nil }})
	d.restore()
	if len(opened) != 1 || len(opened[0].Routes) != 1 || opened[0].Routes[0].Respond == nil || opened[0].Routes[0].Respond.Status != 404 {
		t.Errorf("opened %+v, want one listener that answers 404", opened)
	}
}

func TestHalfAStateIsNone(t *testing.T) {
	data := encoded(t, someState())
	for n := range data {
		if _, err := decodeState(data[:n]); err == nil {
			t.Errorf("the first %d of %d bytes were taken for a state", n, len(data))
		}
	}
	for _, change := range [][2]string{{"10.0.0.1", "10.0.0.7"}, {`"format":1`, `"format":2`}, {`"sha256":"`, `"sha256":"0`}} {
		if _, err := decodeState([]byte(strings.Replace(string(data), change[0], change[1], 1))); err == nil {
			t.Errorf("with %s changed to %s it was taken for a state", change[0], change[1])
		}
	}
}

func TestAFileIsReplacedWholeOrNotAtAll(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	path := filepath.Join(dir, "file")
	for _, text := range []string{"first", "second"} {
		if err := writeFile(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); string(got) != text || err != nil {
			t.Errorf("read %q, %v; want %q", got, err, text)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want only the owner to read it", info.Mode(), err)
	}
	// Something in the way of the rename leaves neither half a file nor litter.
	blocked := filepath.Join(dir, "dir", "x")
	if err := os.MkdirAll(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(filepath.Dir(blocked), []byte("third")); err == nil {
		t.Error("a directory was replaced")
	}
	names, err := os.ReadDir(dir)
	if len(names) != 2 || err != nil {
		t.Errorf("%v left in the directory (%v), want file and dir", names, err)
	}
}

func TestAStateBeyondAllBoundsIsNotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "huge")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(stateMax+1), f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := readState(path); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("error %v, want one about the size", err)
	}
}

func FuzzDecodeState(f *testing.F) {
	f.Add(encoded(f, someState()))
	f.Add([]byte(`{"format":1,"sha256":"","resources":{"clusters":[{}]}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if s, err := decodeState(body); err == nil {
			encoded(t, s)
		}
		// Behind a sum that is right, so that the fuzzer gets past it.
		sealed := append([]byte(`{"format":1,"sha256":"`+sum(body)+`","resources":`), append(body, '}')...)
		if s, err := decodeState(sealed); err == nil {
			encoded(t, s)
		}
	})
}
