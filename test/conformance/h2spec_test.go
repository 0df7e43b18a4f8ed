package conformance

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const h2spec = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"

// exceptions are cases of h2spec that need not pass, by listener, with the reason.
var exceptions = map[string]map[string]string{
	"any": {"2: Sends invalid connection preface": "what begins otherwise is no HTTP/2, and carried to the cluster unread"},
}

var (
	summary = regexp.MustCompile(`(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed`)
	failure = regexp.MustCompile(`× (\d+: .*)`)
)

func TestH2spec(t *testing.T) {
	dir := built(t, "h2spec-v2.2.1", func(dir string) *exec.Cmd {
		cmd := exec.Command("go", "install", h2spec)
		cmd.Dir = dir // outside of this module
		cmd.Env = append(cmd.Environ(), "GOBIN="+dir, "GOFLAGS=")
		return cmd
	})
	file := fmt.Sprintf(`
outbound:
  - {name: modern, address: "127.0.0.1:0", protocol: http2, cluster: modern}
  - {name: older, address: "127.0.0.1:0", protocol: http2, cluster: older}
  - {name: any, address: "127.0.0.1:0", protocol: auto, cluster: modern}
clusters:
  - {name: modern, protocol: http2, endpoints: [{address: %q}]}
  - {name: older, endpoints: [{address: %q}]}
`, modern(t), older(t))
	for _, path := range paths {
		t.Run(path.name, func(t *testing.T) {
			s, stop := startSidecarWith(t, path.options, file)
			defer stop()
			for _, name := range []string{"modern", "older", "any"} {
				t.Run(name, func(t *testing.T) { specify(t, filepath.Join(dir, "h2spec"), port(t, s, name), name) })
			}
		})
	}
}

// specify runs h2spec against the listener of that name.
func specify(t *testing.T, program, port, name string) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	// --strict adds what RFC 9113 says SHOULD be.
	out, err := exec.CommandContext(ctx, program, "-h", "127.0.0.1", "-p", port, "-o", "5", "--strict").CombinedOutput()
	total := summary.FindStringSubmatch(string(out))
	if total == nil {
		t.Fatalf("h2spec said nothing to count: %v\n%s", err, out)
	}
	for _, failed := range failure.FindAllStringSubmatch(string(out), -1) {
		if exceptions[name][failed[1]] == "" {
			t.Errorf("failed: %s", failed[1])
		}
	}
	if t.Failed() {
		t.Logf("%s", out[max(0, strings.Index(string(out), "Failures:")):])
	}
	t.Logf("%s", total[0])
	if total[1] == "0" || total[3] != "0" {
		t.Errorf("got %s: want all to be run", total[0])
	}
}
