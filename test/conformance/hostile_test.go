//go:build unix

package conformance

import (
	"bytes"
	"context"
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
	head := func(more ...hpack.HeaderField) []byte {
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		for _, f := range append([]hpack.HeaderField{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "a"}, {Name: ":path", Value: "/"}}, more...) {
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

// TestGoodClientsBesideHostileOnes: whoever floods is cut off before he has cost much,
// and the others get all of their answers meanwhile. What a flood costs is counted in
// processor time, its client's and its endpoint's included, since on a busy machine
// nothing else can be relied on.
func TestGoodClientsBesideHostileOnes(t *testing.T) {
	const (
		rounds  = 3
		window  = 200 * time.Millisecond
		hostile = 70
		good    = 7
		most    = 100 * time.Millisecond // for one of them, also with the race detector
	)
	s := sidecar(t, fmt.Sprintf(`
outbound:
  - {name: out, address: "127.0.0.1:0", protocol: http2, cluster: modern}
clusters:
  - {name: modern, protocol: http2, endpoints: [{address: %q}]}
`, modern(t)))
	address := "127.0.0.1:" + port(t, s, "out")
	var answered atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range good {
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
	kinds := slices.Collect(maps.Values(floods(t)))
	var requests [2]int64 // alone, and beside the others
	var cost [2]time.Duration
	for range rounds {
		for round := range requests {
			before, began := answered.Load(), cputime.Used()
			var attackers sync.WaitGroup
			for i := range hostile * round {
				attackers.Go(func() {
					time.Sleep(rand.N(window))
					if err := flood(address, kinds[i%len(kinds)]); err != nil {
						t.Errorf("a hostile client: %v", err)
					}
				})
			}
			time.Sleep(window)
			attackers.Wait()
			requests[round] += answered.Load() - before
			cost[round] += cputime.Used() - began
		}
	}
	stop()
	clients.Wait()
	each := float64(cost[0]) / float64(max(1, requests[0]))
	price := (cost[1] - time.Duration(each*float64(requests[1]))) / (rounds * hostile)
	t.Logf("%d good connections: %d requests alone, %d beside %d hostile connections, each of which cost %v: a thousand that come once in ten seconds take %.0f %% of two cores",
		good, requests[0], requests[1], rounds*hostile, price, 100*1000*price.Seconds()/20)
	if price > most {
		t.Errorf("a hostile connection cost %v of processor time, want at most %v", price, most)
	}
}

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
