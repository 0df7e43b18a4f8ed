package arch_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/overhear-mesh/overhear"

// purposes has a line for each room: what it is for, in one sentence without
// "and". A new package needs a line here before it builds green.
var purposes = map[string]string{
	"internal/buildversion": "says which version a command was built from",
	"internal/cmdline":      "answers a flag that does not exist with the one that was meant",
	"internal/httpguard":    "lets through only the HTTP requests that an operator meant",
	"internal/refrain":      "keeps a log from saying the same again",
	"internal/strictyaml":   "decodes a YAML file strictly, naming everything that is wrong with it at once",

	"outlier":       "decides, from outcomes of real attempts, what one observer believes of each endpoint",
	"outlier/merge": "turns what many observers counted into one verdict per endpoint per scope",

	"proxy":                       "assembles one sidecar",
	"proxy/admin":                 "shows an operator what this sidecar believes",
	"proxy/balancer":              "chooses one endpoint out of an immutable set",
	"proxy/clock":                 "reads the monotonic clock as time since the sidecar began",
	"proxy/cluster":               "owns a named set of endpoints, being the only writer of its state",
	"proxy/config":                "reads the sidecar's bootstrap file",
	"proxy/discovery":             "brings clusters to the router, from the file or over xDS",
	"proxy/discovery/translation": "turns standard xDS resources into what the sidecar's file would say",

	"proxy/exchange":   "decides what becomes of one request, whatever version of HTTP carries it",
	"proxy/http1":      "speaks HTTP/1.1, downstream as well as upstream",
	"proxy/http2":      "speaks HTTP/2, downstream as well as upstream",
	"proxy/listener":   "accepts connections until it is drained",
	"proxy/mirror":     "sends copies of requests for whose answers nobody waits",
	"proxy/ping":       "pings an endpoint",
	"proxy/reporting":  "carries evidence up, orders down",
	"proxy/resilience": "decides what may be tried again, how often, how long",
	"proxy/router":     "matches a request to a cluster with its policy",
	"proxy/tcp":        "carries opaque TCP",
	"proxy/syntax":     "knows what all versions of HTTP write alike",
	"proxy/tiers":      "offers what may be picked of a set of endpoints, first things first",
	"proxy/telemetry":  "writes metrics, access log lines off the hot path",
	"proxy/tunnel":     "moves bytes between two connections until both sides have ended",
	"proxy/trace":      "places a request in a distributed trace",
	"proxy/upstream":   "keeps connections to one endpoint, says how each attempt went",
	"proxy/wheel":      "calls those whose time is up, coarsely",
	"proxy/vigil":      "decides when an endpoint of which no traffic tells is pinged",

	"xds":                  "documents the wires, with the table of how a verdict is told",
	"xds/client":           "keeps one delta ADS stream, telling its handler what arrives",
	"xds/controlplane":     "closes the loop from reports to endpoint sets",
	"xds/ingest":           "turns what unmodified Envoys tell into evidence",
	"xds/policypb":         "the wire form of a cluster's policy",
	"xds/registry":         "knows which endpoints exist when all is well",
	"xds/replay":           "says what a policy would have done with what sidecars have recorded",
	"xds/report":           "both ends of the report stream, one codec",
	"xds/report/grpcstats": "lets a gRPC client report what its calls came to",
	"xds/report/cadence":   "says when a reporter tells what it has overheard",
	"xds/reportpb":         "the wire form of reports",
	"xds/resource":         "turns xDS messages into checked values, in both directions",
	"xds/server":           "serves xDS to sidecars, Envoys, gRPC clients",
}

// mayImport lists what of ours a room may import, by prefix; a room that is not
// listed may import whatever the general arrows allow.
var mayImport = map[string][]string{
	"internal/cmdline":     {"internal/strictyaml"},
	"internal/httpguard":   {},
	"internal/refrain":     {},
	"internal/strictyaml":  {},
	"outlier":              {},
	"outlier/merge":        {"outlier"},
	"proxy/clock":          {},
	"proxy/trace":          {"internal/strictyaml"},
	"proxy/balancer":       {"outlier", "internal/strictyaml"},
	"proxy/ping":           {"outlier", "internal/strictyaml", "proxy/upstream"},
	"proxy/tiers":          {"outlier", "proxy/balancer"},
	"proxy/vigil":          {"outlier"},
	"xds/reportpb":         {},
	"xds/server":           {"internal/refrain", "xds/resource"},
	"xds/client":           {"xds/resource"},
	"xds/report":           {"internal/refrain", "outlier", "outlier/merge", "xds/reportpb"},
	"xds/report/cadence":   {"outlier", "outlier/merge"},
	"xds/report/grpcstats": {"outlier", "outlier/merge", "xds/report", "xds/report/cadence"},
	"xds/ingest":           {"internal/refrain", "internal/strictyaml", "outlier", "outlier/merge", "xds/report", "xds/resource"},
	"xds/policypb":         {},
	"xds/resource":         {"outlier", "xds/policypb"},
}

// source is what one Go file imports.
type source struct {
	room, path string
	test       bool
	imports    []string
}

func sources(t *testing.T) []source {
	t.Helper()
	root, err := os.OpenRoot(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	var all []source
	err = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && d.Name() != ".") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := fs.ReadFile(root.FS(), path)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ImportsOnly)
		if err != nil {
			return err
		}
		s := source{room: filepath.ToSlash(filepath.Dir(path)), path: path, test: strings.HasSuffix(path, "_test.go")}
		for _, imp := range parsed.Imports {
			name, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return err
			}
			s.imports = append(s.imports, name)
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("found %d Go files: the walk does not see the repository", len(all))
	}
	return all
}

func within(path, room string) bool { return path == room || strings.HasPrefix(path, room+"/") }

// broken says which rule an import breaks; "" if none. ours is the imported room
// without the module's path, "" for anything foreign.
func broken(room, imported string) string {
	ours, isOurs := strings.CutPrefix(imported, module+"/")
	thirdParty := !isOurs && strings.Contains(strings.Split(imported, "/")[0], ".")
	product := !within(room, "test") && !within(room, "examples")
	switch {
	case within(room, "outlier") && thirdParty:
		return "outlier knows the standard library only"
	case !isOurs:
		return ""
	case product && (within(ours, "test") || within(ours, "examples")):
		return "nobody imports test or examples"
	case within(room, "outlier") && !within(ours, "outlier"):
		return "outlier imports nothing of ours"
	case within(room, "xds") && within(ours, "proxy"):
		return "xds never imports proxy"
	case within(room, "proxy") && within(ours, "xds") && !within(room, "proxy/discovery") && room != "proxy/reporting":
		return "inside proxy only discovery and reporting know that xDS exists"
	case within(room, "cmd/sidecar") && within(ours, "xds"), within(room, "cmd/controlplane") && within(ours, "proxy"):
		return "the two binaries do not share their rooms"
	case within(ours, "cmd"):
		return "nobody imports a command"
	}
	if allowed, listed := mayImport[room]; listed && !slices.Contains(allowed, ours) {
		return "may import of ours only: " + strings.Join(allowed, ", ")
	}
	return ""
}

func TestImportsFollowTheArrowsOfTheHouse(t *testing.T) {
	for _, s := range sources(t) {
		for _, imported := range s.imports {
			ours, _ := strings.CutPrefix(imported, module+"/")
			// A test may stand on the test rooms and on any room below the one it tests.
			if s.test && (within(ours, "test") || ours == s.room) {
				continue
			}
			if rule := broken(s.room, imported); rule != "" && !s.test {
				t.Errorf("%s imports %s: %s", s.path, imported, rule)
			}
		}
	}
}

func TestEveryRoomHasOnePurpose(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range sources(t) {
		if s.test || !within(s.room, "proxy") && !within(s.room, "xds") && !within(s.room, "outlier") && !within(s.room, "internal") {
			continue
		}
		seen[s.room] = true
		if purposes[s.room] == "" {
			t.Errorf("%s has no line in the table of purposes", s.room)
		}
	}
	for room, purpose := range purposes {
		if !seen[room] {
			t.Errorf("the table of purposes names %s, which is not there", room)
		}
		if strings.Contains(purpose, " and ") {
			t.Errorf("%s: %q does two things", room, purpose)
		}
	}
}

func TestTheTopLevelHoldsNothingElse(t *testing.T) {
	allowed := []string{
		"cmd", "proxy", "outlier", "xds", "examples", "test", "internal", "go.mod", "go.sum", "README.md",
		"LICENSE", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", ".golangci.yml", ".gitignore", ".gitattributes", ".ci", ".git",
	}
	entries, err := os.ReadDir(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(allowed, e.Name()) && e.Name() != "bin" {
			t.Errorf("%s does not belong at the top level", e.Name())
		}
	}
}

// The sidecar runs beside every service: it pays for what it links.
func TestTheSidecarLinksNothingThatItDoesNotNeed(t *testing.T) {
	imports := map[string][]string{}
	for _, s := range sources(t) {
		if !s.test {
			imports[s.room] = append(imports[s.room], s.imports...)
		}
	}
	foreign := map[string]string{} // foreign import → our room that wants it
	visited := map[string]bool{}
	var visit func(room string)
	visit = func(room string) {
		if visited[room] {
			return
		}
		visited[room] = true
		for _, imported := range imports[room] {
			if ours, ok := strings.CutPrefix(imported, module+"/"); ok {
				visit(ours)
			} else {
				foreign[imported] = room
			}
		}
	}
	visit("cmd/sidecar")
	if !visited["proxy"] {
		t.Fatal("cmd/sidecar does not reach proxy: the walk is broken")
	}
	for _, unwanted := range []string{
		"github.com/spf13/cobra", "github.com/envoyproxy/go-control-plane/pkg", "github.com/invopop/jsonschema",
		"go.opentelemetry.io/contrib/instrumentation", "net/http/httputil", "testing",
	} {
		for imported, room := range foreign {
			if within(imported, unwanted) {
				t.Errorf("the sidecar links %s through %s", imported, room)
			}
		}
	}
	for _, room := range []string{"xds/server", "xds/controlplane", "xds/registry", "outlier/merge"} {
		if visited[room] && room != "outlier/merge" {
			t.Errorf("the sidecar links %s", room)
		}
	}
}

func TestTheRulesRefuseWhatTheyShould(t *testing.T) {
	for _, tc := range []struct {
		room, imported string
		refused        bool
	}{
		{"outlier", "github.com/google/go-cmp/cmp", true},
		{"outlier", module + "/proxy/clock", true},
		{"outlier/merge", module + "/outlier", false},
		{"xds/client", module + "/proxy/cluster", true},
		{"proxy/cluster", module + "/xds/resource", true},
		{"proxy/discovery", module + "/xds/resource", false},
		{"proxy", module + "/test/pipenet", true},
		{"examples/quickstart", module + "/test/fakeupstream", false},
		{"proxy/balancer", module + "/proxy/upstream", true},
		{"cmd/sidecar", module + "/xds/server", true},
		{"proxy/http1", "strings", false},
	} {
		if got := broken(tc.room, tc.imported) != ""; got != tc.refused {
			t.Errorf("%s importing %s: refused %t, want %t", tc.room, tc.imported, got, tc.refused)
		}
	}
}
