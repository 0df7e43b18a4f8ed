package http2

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2/hpack"
)

// encodesAs has every block of fields decoded by the other implementation, between changes of
// the table's size.
func encodesAs(t *testing.T, steps func(yield func(limit int, fields []hpack.HeaderField) bool)) {
	t.Helper()
	var e encoder
	e.init()
	dec := hpack.NewDecoder(tableSize, nil)
	for limit, fields := range steps {
		if limit >= 0 {
			dec.SetAllowedMaxDynamicTableSize(uint32(limit))
			e.limit(uint32(limit))
			continue
		}
		e.begin()
		for _, f := range fields {
			e.put(f)
		}
		got, err := dec.DecodeFull(e.block())
		if err != nil {
			t.Fatalf("%q cannot be decoded: %v", e.block(), err)
		}
		for i, f := range fields {
			// "Never" is for fields that are sensitive; others may be left out of the table.
			if i < len(got) && !f.Sensitive {
				got[i].Sensitive = false
			}
		}
		if diff := cmp.Diff(fields, got); diff != "" {
			t.Fatalf("decoded fields differ (-want +got):\n%s", diff)
		}
		if e.table.size > e.table.limit {
			t.Fatalf("the table has %d bytes, and may have %d", e.table.size, e.table.limit)
		}
	}
}

func TestWhatIsEncodedIsDecodedByAnotherImplementation(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	names := []string{"content-type", "te", "x-a", "x-b", "cookie", "date", "x-request-id", "user-agent", "X", ""}
	for range 40 {
		encodesAs(t, func(yield func(int, []hpack.HeaderField) bool) {
			for range 60 {
				if rng.IntN(10) == 0 && !yield(rng.IntN(tableSize+1), nil) {
					return
				}
				fields := make([]hpack.HeaderField, 1+rng.IntN(12))
				for i := range fields {
					fields[i] = hpack.HeaderField{
						Name:      names[rng.IntN(len(names))],
						Value:     strings.Repeat(string(rune('a'+rng.IntN(4))), rng.IntN(3)*rng.IntN(200)),
						Sensitive: rng.IntN(20) == 0,
					}
				}
				if !yield(-1, fields) {
					return
				}
			}
		})
	}
}

func TestPseudoHeadersAreEncodedAsTheyAre(t *testing.T) {
	var e encoder
	e.init()
	e.begin()
	var want []hpack.HeaderField
	said := func(name, value string) { want = append(want, hpack.HeaderField{Name: name, Value: value}) }
	for _, method := range []string{"GET", "POST", "PUT", "GET"} {
		writeMethod(&e, method)
		said(":method", method)
	}
	for _, scheme := range []string{"http", "https", "ftp"} {
		e.scheme(scheme)
		said(":scheme", scheme)
	}
	for _, path := range []string{"/", "/a"} {
		for _, few := range []bool{false, true} {
			writePath(&e, path, few)
			said(":path", path)
		}
	}
	for status, text := range map[int]string{
		200: "200", 204: "204", 206: "206", 304: "304", 400: "400", 404: "404", 500: "500", 103: "103", 503: "503",
	} {
		e.status(status)
		said(":status", text)
	}
	for _, name := range []string{
		":authority", "accept-encoding", "accept-language", "accept", "age", "authorization", "cache-control", "content-encoding",
		"content-length", "content-type", "cookie", "date", "etag", "if-modified-since", "if-none-match", "last-modified", "location",
		"server", "set-cookie", "user-agent", "vary", "via", "x-other",
	} {
		e.literal(name, "literal")
		said(name, "literal")
		e.literalBytes(name, []byte("bytes"))
		said(name, "bytes")
		e.field(name, "field")
		said(name, "field")
	}
	e.older([]byte("X-Capitals"), []byte("Value"))
	said("x-capitals", "Value")
	e.number("content-length", 1<<40)
	said("content-length", "1099511627776")
	got, err := hpack.NewDecoder(tableSize, nil).DecodeFull(e.block())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decoded fields differ (-want +got):\n%s", diff)
	}
}

// The same head takes one byte for each field that the table has, and no memory.
func TestAFieldThatIsInTheTableIsANumber(t *testing.T) {
	var e encoder
	e.init()
	head := func() {
		e.begin()
		e.field(":authority", "api.example")
		e.older([]byte("Content-Type"), []byte("application/grpc"))
		e.put(hpack.HeaderField{Name: "te", Value: "trailers"})
	}
	head()
	first := len(e.block())
	if got := testing.AllocsPerRun(100, head); got != 0 {
		t.Errorf("got %v allocations for a head that is in the table, want 0", got)
	}
	if got := len(e.block()); got != 3 {
		t.Errorf("got %d bytes, and the first time %d; want 3", got, first)
	}
}

func FuzzEncoder(f *testing.F) {
	f.Add("content-type", "application/grpc", "te", "trailers", uint32(4096))
	f.Add("x", "", "x", "y", uint32(0))
	f.Add("a", strings.Repeat("v", 4064), "b", "c", uint32(40))
	f.Fuzz(func(t *testing.T, n1, v1, n2, v2 string, limit uint32) {
		fields := []hpack.HeaderField{{Name: n1, Value: v1}, {Name: n2, Value: v2}, {Name: n1, Value: v2}, {Name: n1, Value: v1}}
		encodesAs(t, func(yield func(int, []hpack.HeaderField) bool) {
			_ = yield(-1, fields) && yield(int(min(limit, tableSize)), nil) && yield(-1, fields) && yield(tableSize, nil) && yield(-1, fields)
		})
	})
}
