package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/xds/controlplane"
)

// stream is how a control plane answers one who watches.
type stream struct {
	run   string
	lines string
	stays bool // the stream does not end by itself
	fails string
}

// watched lets a watcher meet streams, one after the other, and ends a while after the
// last; it returns what was asked, written and said.
func watched(t *testing.T, after uint64, streams ...stream) (asked []string, out, said string, err error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var o, s bytes.Buffer
	w := &watcher{
		open: func(ctx context.Context, query url.Values) (io.ReadCloser, http.Header, error) {
			asked = append(asked, query.Encode())
			if len(streams) == 0 {
				cancel()
				return nil, nil, ctx.Err()
			}
			one := streams[0]
			streams = streams[1:]
			if one.fails != "" {
				return nil, nil, errors.New(one.fails)
			}
			r, w := io.Pipe()
			go func() {
				_, _ = io.WriteString(w, one.lines) // a watcher that has left has closed the other side
				if one.stays {
					<-ctx.Done()
				}
				_ = w.CloseWithError(context.Cause(ctx)) // without one the stream just ends
			}()
			return r, http.Header{controlplane.RunHeader: {one.run}}, nil
		},
		out: &page{w: &o}, say: &page{w: &s}, address: "cp:1", cursor: after,
	}
	err = w.follow(ctx)
	return asked, o.String(), s.String(), err
}

const (
	firstLine  = `{"cursor":1,"time":"2026-05-01T12:00:00Z","kind":"ready","text":"ready"}` + "\n"
	secondLine = `{"cursor":2,"time":"2026-05-01T12:00:01Z","kind":"operator","text":"api/api-1: eject"}` + "\n"
)

func TestWatchGoesOnWhenTheControlPlaneIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, out, said, err := watched(t, 0,
			stream{run: "a", lines: firstLine + secondLine},
			stream{fails: "nothing listens"}, stream{fails: "nothing listens"},
			stream{run: "b", lines: firstLine},
			stream{run: "b", lines: secondLine},
		)
		if err != nil {
			t.Errorf("the end by the operator: got %v, want none", err)
		}
		if diff := cmp.Diff([]string{
			"after=0&follow=true",
			"after=2&follow=true&run=a", "after=2&follow=true&run=a", "after=2&follow=true&run=a",
			"after=1&follow=true&run=b",
			"after=2&follow=true&run=b",
		}, asked); diff != "" {
			t.Errorf("asked for (-want +got):\n%s", diff)
		}
		ready, eject := "12:00:00.000  ready      ready\n", "12:00:01.000  operator   api/api-1: eject\n"
		if diff := cmp.Diff(ready+eject+ready+eject, out); diff != "" {
			t.Errorf("shown (-want +got):\n%s", diff)
		}
		lost := "controlplane: watch: lost the control plane at cp:1: it has ended the stream; trying again until ctrl-C\n"
		if diff := cmp.Diff(lost+
			"controlplane: watch: nothing listens; trying again until ctrl-C\n"+ // once, however often it fails
			"controlplane: watch: the control plane at cp:1 has been restarted\n"+
			lost+
			"controlplane: watch: the control plane at cp:1 is back\n"+
			lost, said); diff != "" {
			t.Errorf("said (-want +got):\n%s", diff)
		}
	})
}

func TestWatchTakesASilentStreamForLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, _, said, _ := watched(t, 0, stream{run: "a", lines: firstLine + "\n", stays: true})
		if !strings.HasPrefix(said, "controlplane: watch: lost the control plane at cp:1: it has fallen silent") {
			t.Errorf("said %q, want that it has fallen silent", said)
		}
		if took := time.Since(start); took < silence || took > silence+retryFirst {
			t.Errorf("given up after %v, want after %v", took, silence)
		}
	})
}

func TestWatchOfAWrongAddressEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, _, said, err := watched(t, 0, stream{fails: "nothing listens at cp:1"})
		if err == nil || err.Error() != "nothing listens at cp:1" || len(asked) != 1 || said != "" {
			t.Errorf("got %v after %d attempts, said %q; want the failure of the only one", err, len(asked), said)
		}
	})
}

func TestWatchAsksLessOftenTheLongerItFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams := []stream{{run: "a", lines: firstLine}}
		for range 20 {
			streams = append(streams, stream{fails: "no"})
		}
		start := time.Now()
		if _, _, _, err := watched(t, 7, streams...); err != nil {
			t.Error(err)
		}
		// 21 waits, of which five grow to the longest; each is half of that at least.
		if took := time.Since(start); took < 40*time.Second || took > 90*time.Second {
			t.Errorf("21 waits took %v, want 40 s to 90 s", took)
		}
	})
}
