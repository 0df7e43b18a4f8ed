package exchange_test

import (
	"bytes"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/exchange"
)

func TestWhatBecomesOfAPath(t *testing.T) {
	normal := exchange.DefaultPaths()
	merging := exchange.Paths{Normalize: true, MergeSlashes: true}
	unescaping := exchange.Paths{Normalize: true, EscapedSlashes: exchange.UnescapeSlashes}
	rejecting := exchange.Paths{EscapedSlashes: exchange.RejectSlashes}
	for _, test := range []struct {
		policy     exchange.Paths
		path, want string // want "": refused
	}{
		{exchange.Paths{}, "/a/../%62//c", "/a/../%62//c"},

		{normal, "/a/b?x=../y", "/a/b?x=../y"},
		{normal, "/a/../b", "/b"},
		{normal, "/a/./b/.", "/a/b/"},
		{normal, "/a/b/..", "/a/"},
		{normal, "/..", "/"},
		{normal, "/../../a?q", "/a?q"},
		{normal, "/a//../b", "/a/b"},
		{normal, "/a/..;/b/..;x=1", "/a/..;/b/..;x=1"},
		{normal, "/.hidden/..a/b./...", "/.hidden/..a/b./..."},
		{normal, "/%61%2E%7e%41?%61", "/a.~A?%61"},
		{normal, "/a/%2e%2E/b", "/b"},
		{normal, "/a/%2f%5c/b//c", "/a/%2f%5c/b//c"},
		{normal, `/a\..\b`, "/b"},
		{normal, "/%252e%252e/a", "/%252e%252e/a"},
		{normal, "/%25%32%45", "/%252E"},
		{normal, "/%3f%23%20", "/%3f%23%20"},
		{normal, "*", "*"},
		{normal, "", ""},
		{normal, "?a//../b", "?a//../b"},

		{merging, "//a///b/?//", "/a/b/?//"},
		{merging, "/a//../b", "/b"},
		{exchange.Paths{MergeSlashes: true}, "//a//../%62", "/a/../%62"},

		{unescaping, "/a%2f..%2Fb%5Cc", "/b/c"},
		{unescaping, "/a%2f%2fb", "/a//b"},
		{rejecting, "/a%2fb", "!"},
		{rejecting, "/a%5Cb", "!"},
		{rejecting, "/a%252fb?%2f", "/a%252fb?%2f"},
	} {
		got, ok := test.policy.Clean([]byte(test.path))
		if test.want == "!" {
			if ok {
				t.Errorf("%+v, %s: got %s, want it refused", test.policy, test.path, got)
			}
			continue
		}
		if !ok || string(got) != test.want {
			t.Errorf("%+v, %s: got %s, %v; want %s", test.policy, test.path, got, ok, test.want)
		}
		if !test.policy.Dirty(test.path) && string(got) != test.path {
			t.Errorf("%s was called clean, and became %s", test.path, got)
		}
	}
}

func TestAnEscapedSlashIsRedirectedToOneThatIsNone(t *testing.T) {
	p := exchange.Paths{Normalize: true, MergeSlashes: true, EscapedSlashes: exchange.RedirectSlashes}
	for _, test := range []struct {
		path, host string
		grpc       bool
		status     int
		want       string // location; "": none
	}{
		{"/a%2fb%5Cc?d%2fe", "web:81", false, 307, "http://web:81/a/b/c?d%2fe"},
		{"/a%2f..%2F..%2fb", "web", false, 307, "http://web/b"},
		{"/%2f%2fevil.example/", "web", false, 307, "http://web/evil.example/"},
		{"/%2fa", "", false, 307, "/a"}, // HTTP/1.0 may name no host
		{"/a%2fb", "web", true, 400, ""},
	} {
		clean, ok := p.Clean([]byte(test.path))
		if ok {
			t.Errorf("%s goes on as %s, want it redirected", test.path, clean)
		}
		if again, ok := p.Clean(bytes.Clone(clean)); !ok || !bytes.Equal(again, clean) {
			t.Errorf("%s leads to %s, which becomes %s, %v; want it to go on", test.path, clean, again, ok)
		}
		x := exchange.Exchange{GRPC: test.grpc}
		x.Record.Path, x.Record.Host = clean, []byte(test.host)
		got := x.Slashed(&p)
		if got.Status != test.status || got.Location != test.want {
			t.Errorf("%s: got %d to %q, want %d to %q", test.path, got.Status, got.Location, test.status, test.want)
		}
		if test.grpc && got.GRPCStatus() != exchange.GRPCInternal {
			t.Errorf("%s: got status %d of gRPC, want INTERNAL", test.path, got.GRPCStatus())
		}
	}
	merely := exchange.Paths{EscapedSlashes: exchange.RedirectSlashes}
	clean, _ := merely.Clean([]byte("/%2fevil.example"))
	var x exchange.Exchange
	x.Record.Path = clean
	if got := x.Slashed(&merely).Location; strings.HasPrefix(got, "//") {
		t.Errorf("location of a request without a host: got %q, which is another host", got)
	}
}

func TestAPolicyForPathsHasNames(t *testing.T) {
	var p struct {
		Paths exchange.Paths `yaml:"paths"`
	}
	if err := strictyaml.Decode("f", []byte("paths: {normalize: false, merge_slashes: true, escaped_slashes: reject}"), &p); err != nil {
		t.Fatal(err)
	}
	if want := (exchange.Paths{MergeSlashes: true, EscapedSlashes: exchange.RejectSlashes}); p.Paths != want {
		t.Errorf("got %+v, want %+v", p.Paths, want)
	}
	if err := strictyaml.Decode("f", []byte("paths: {escaped_slashes: drop}"), &p); err == nil || !strings.Contains(err.Error(), "keep, reject, unescape") {
		t.Errorf("got %v, want the names", err)
	}
}

// Whatever comes, a clean path stays clean, means what the standard library means by
// it, and takes nothing from the query.
func FuzzClean(f *testing.F) {
	for _, seed := range []string{"/a/../b", "/%2e%2e/%2f", "//./..//", "/a?b", `/\..`, "*", "/%", "/%zz"} {
		f.Add(seed, true, true, uint8(2))
	}
	f.Fuzz(func(t *testing.T, target string, normalize, merge bool, slashes uint8) {
		p := exchange.Paths{Normalize: normalize, MergeSlashes: merge, EscapedSlashes: exchange.Slashes(slashes % 4)}
		clean, ok := p.Clean([]byte(target))
		if !ok {
			return
		}
		before, query, _ := strings.Cut(target, "?")
		after, kept, _ := strings.Cut(string(clean), "?")
		if kept != query || len(clean) > len(target) {
			t.Fatalf("%q became %q", target, clean)
		}
		again, ok := p.Clean(bytes.Clone(clean))
		if !ok || string(again) != string(clean) {
			t.Fatalf("%q became %q, and then %q", target, clean, again)
		}
		if !strings.HasPrefix(target, "/") {
			if string(clean) != target {
				t.Fatalf("%q became %q", target, clean)
			}
			return
		}
		if !strings.HasPrefix(after, "/") {
			t.Fatalf("%q became %q, which is no path", target, clean)
		}
		if normalize && merge && slashes%4 == 2 {
			if decoded, err := url.PathUnescape(strings.ReplaceAll(before, `\`, "/")); err == nil && !strings.ContainsAny(decoded, `%\`) {
				got, _ := url.PathUnescape(after)
				if want := path.Clean(decoded); strings.TrimSuffix(got, "/") != strings.TrimSuffix(want, "/") {
					t.Fatalf("%q became %q, want %q", before, got, want)
				}
			}
		}
	})
}
