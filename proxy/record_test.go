package proxy_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/proxy"
	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/xds/report"
)

// A sidecar whose file is all that it has records the clusters of the file, as if a
// control plane listened, and what it believed of their endpoints.
func TestASidecarRecordsWithoutAControlPlane(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record")
	const clusters = `
node: {id: shop-1, zone: a}
outbound: [{name: web, address: "127.0.0.1:15001", cluster: api}]
clusters: [{name: api, endpoints: [{id: api-1, address: "10.0.1.1:80"}, {id: api-2, address: "10.0.1.2:80"}]}]
`
	inPod(t, clusters+fmt.Sprintf("record: {path: %q}\n", path), func(p *pod) {
		p.backend(1, time.Millisecond)
		bad := p.backend(2, time.Millisecond)
		for i := range 200 {
			if i == 100 {
				if err := bad.Set(fakeupstream.Crash()); err != nil {
					t.Fatal(err)
				}
			}
			if got := p.get(15001, "/"); got.status != 200 {
				t.Errorf("request %d: got %v, want 200", i, got)
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	rec, err := report.OpenRecording(path, file)
	if err != nil {
		t.Fatal(err)
	}
	if h := rec.Header(); h.Reporter.ID != "shop-1" || h.Reporter.Zone != "a" || len(h.Services) != 1 || h.Services[0] != "api" {
		t.Errorf("header is %+v, want that of shop-1 in zone a, with service api", h)
	}
	var attempts, failed uint32
	ejected := 0
	for {
		f, err := rec.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if f.Message.Report != nil {
			for _, c := range f.Message.Report.Cells {
				if c.Key.Service == "api" && c.Key.Instance == "api-2" {
					attempts, failed = c.Counts.N, c.Counts.K()
				}
			}
		}
		for _, h := range f.Held {
			if h.Key.Instance == "api-2" && h.To.String() == "ejected" && !h.Fleet {
				ejected++
			}
		}
	}
	if attempts < 20 || failed == 0 || failed == attempts {
		t.Errorf("recorded %d attempts on api-2, %d failed; want many, some failed", attempts, failed)
	}
	if ejected == 0 {
		t.Error("its ejection was not recorded")
	}
}

func TestARecordingThatCannotBeWrittenIsSaidAtTheStart(t *testing.T) {
	p := newPod(t)
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("something else entirely"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := proxy.New(p.config(one+fmt.Sprintf("record: {path: %q}\n", path)), proxy.Options{Dial: p.host.Dial, Listen: p.host.Listen})
	if err == nil || !strings.HasPrefix(err.Error(), "record.path: ") || !strings.Contains(err.Error(), "is no recording") {
		t.Errorf("got %v, want that record.path is no recording", err)
	}
}
