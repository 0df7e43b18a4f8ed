//go:build unix

package conformance

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/overhear-mesh/overhear/test/cputime"
)

// floods are what a connection is cut for, written ahead: CVE-2023-44487, 2019-9515,
// 2019-9512, 2019-9518, 2023-45288, and a bomb of HPACK.
func floods(t *testing.T) map[string][]byte {
	t.Helper()
	const frames = 8000
	kind := ""
	head := func(more ...hpack.HeaderField) []byte {
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		for _, f := range append([]hpack.HeaderField{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "a"}, {Name: ":path", Value: "/"}, {Name: kindHeader, Value: kind}}, more...) {
			f.Sensitive = true // in no table: the same bytes each time
			_ = enc.WriteField(f)
		}
		return block.Bytes()
	}
	all := map[string][]byte{}
	for name, write := range map[string]func(f *http2.Framer, i uint32) error{
		"rapid reset": func(f *http2.Framer, i uint32) error {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: head(), EndHeaders: true})
			return f.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
		},
		"SETTINGS":      func(f *http2.Framer, _ uint32) error { return f.WriteSettings() },
		"PING":          func(f *http2.Framer, _ uint32) error { return f.WritePing(false, [8]byte{}) },
		"WINDOW_UPDATE": func(f *http2.Framer, _ uint32) error { return f.WriteWindowUpdate(0, 1) },
		"empty DATA": func(f *http2.Framer, i uint32) error {
			if i == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head(), EndHeaders: true})
			}
			return f.WriteData(1, false, nil)
		},
		"CONTINUATION": func(f *http2.Framer, i uint32) error {
			if i == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head()})
			}
			return f.WriteContinuation(1, false, nil)
		},
		"HPACK": func(f *http2.Framer, i uint32) error { // heads that are refused, one after the other
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, EndStream: true, EndHeaders: true,
				BlockFragment: head(hpack.HeaderField{Name: "x", Value: strings.Repeat("x", 100)}, hpack.HeaderField{Name: "connection", Value: "x"})})
		},
	} {
		kind = name
		var b bytes.Buffer
		b.WriteString(http2.ClientPreface)
		f := http2.NewFramer(&b, nil)
		f.AllowIllegalWrites = true
		if err := f.WriteSettings(); err != nil {
			t.Fatal(err)
		}
		for i := range uint32(frames) {
			if err := write(f, i); err != nil {
				t.Fatal(err)
			}
		}
		all[name] = b.Bytes()
	}
	return all
}

var (
	hostileCount  = flag.Int("hostile", 70, "hostile connections of TestGoodClientsBesideHostileOnes in each round")
	goodCount     = flag.Int("good", 7, "good ones beside them")
	hostileWindow = flag.Duration("hostile-window", 200*time.Millisecond, "in which the hostile ones come")
	hostileRounds = flag.Int("hostile-rounds", 3, "with the hostile ones, each after one without")
	hostileKind   = flag.String("hostile-kind", "", "the only flood; empty: all of them in turn")
)

// TestGoodClientsBesideHostileOnes: whoever floods is cut off before he has cost much,
// and the others get all of their answers meanwhile. What a flood costs is counted in
// requests that reach the endpoint, and in processor time, its client's and its
// endpoint's included, since on a busy machine nothing else can be relied on. How much of
// their throughput the good ones keep is printed.
func TestGoodClientsBesideHostileOnes(t *testing.T) {
	const most = 100 * time.Millisecond // of processor time for one of them, also with the race detector
	var hits tally
	s := sidecar(t, fmt.Sprintf(`
outbound:
  - {name: out, address: "127.0.0.1:0", protocol: http2, cluster: modern}
clusters:
  - {name: modern, protocol: http2, endpoints: [{address: %q}]}
`, backendOf(t, only2(), hits.count)))
	address := "127.0.0.1:" + port(t, s, "out")
	var answered atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range *goodCount {
		transport := &http.Transport{Protocols: only2()}
		clients.Go(func() {
			defer transport.CloseIdleConnections()
			for ctx.Err() == nil {
				if err := fetch(transport, address); err != nil {
					t.Errorf("a good client: %v", err)
					return
				}
				answered.Add(1)
			}
		})
	}
	all := floods(t)
	kinds := slices.Sorted(maps.Keys(all))
	if *hostileKind != "" {
		kinds = []string{*hostileKind}
	}
	var requests [2]int64 // alone, and beside the others
	var cost, took [2]time.Duration
	sent := map[string]int{}
	for range *hostileRounds {
		for round := range requests {
			before, began, at := answered.Load(), cputime.Used(), time.Now()
			var attackers sync.WaitGroup
			for i := range *hostileCount * round {
				kind := kinds[i%len(kinds)]
				sent[kind]++
				attackers.Go(func() {
					time.Sleep(rand.N(*hostileWindow))
					if err := flood(address, all[kind]); err != nil {
						t.Errorf("a hostile client (%s): %v", kind, err)
					}
				})
			}
			time.Sleep(*hostileWindow)
			attackers.Wait()
			requests[round] += answered.Load() - before
			cost[round] += cputime.Used() - began
			took[round] += time.Since(at)
		}
	}
	stop()
	clients.Wait()
	each := float64(cost[0]) / float64(max(1, requests[0]))
	price := (cost[1] - time.Duration(each*float64(requests[1]))) / time.Duration(*hostileRounds**hostileCount)
	rate := func(i int) float64 { return float64(requests[i]) / took[i].Seconds() }
	t.Logf("%d good connections: %.0f requests/s alone, %.0f (%.0f %%) beside %d hostile connections that came in %v, each of which cost %v",
		*goodCount, rate(0), rate(1), 100*rate(1)/max(1, rate(0)), *hostileCount, took[1]/time.Duration(*hostileRounds), price)
	if price > most {
		t.Errorf("a hostile connection cost %v of processor time, want at most %v", price, most)
	}
	for _, kind := range kinds {
		t.Logf("%s: %d connections, %d requests to the endpoint", kind, sent[kind], hits.of(kind))
		if got, want := hits.of(kind), sent[kind]*reach[kind]; got > want {
			t.Errorf("%s: %d requests to the endpoint from %d connections, want at most %d", kind, got, sent[kind], want)
		}
	}
}

// reach is how many requests of one connection that floods may reach an endpoint.
var reach = map[string]int{
	"rapid reset": 101, // those whose reset does not come together with them; it is cut off with the next one
	"empty DATA":  1,
}

// tally counts the requests of floods, by their kind.
type tally struct {
	mu   sync.Mutex
	hits map[string]int
}

func (h *tally) count(w http.ResponseWriter, r *http.Request) {
	if kind := r.Header.Get(kindHeader); kind != "" {
		h.mu.Lock()
		if h.hits == nil {
			h.hits = map[string]int{}
		}
		h.hits[kind]++
		h.mu.Unlock()
	}
	kilobyte(w, r)
}

func (h *tally) of(kind string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.hits[kind]
}

// kindHeader says what flood a request is of.
const kindHeader = "x-flood"

// fetch makes one request.
func fetch(transport *http.Transport, address string) error {
	res, err := (&http.Client{Transport: transport}).Get("http://" + address + "/") //nolint:noctx // it ends with the test's
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || len(body) != 1024 {
		return fmt.Errorf("got %d and %d bytes, %w", res.StatusCode, len(body), err)
	}
	return nil
}

// flood writes as much as is taken, and waits until it is cut off.
func flood(address string, frames []byte) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		_, _ = c.Write(frames)
	}()
	_, err = io.Copy(io.Discard, c)
	c.Close()
	<-wrote
	if e, ok := err.(net.Error); ok && e.Timeout() { //nolint:errorlint // what io.Copy returns is not wrapped
		return fmt.Errorf("it was not cut off: %w", err)
	}
	return nil
}
