package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/overhear-mesh/overhear/xds/controlplane"
)

func watchCommand(r *remote) *cobra.Command {
	var follow bool
	var after uint64
	c := &cobra.Command{
		Use:   "watch",
		Short: "Show what happens, as it happens",
		Long: `Show the events that are still kept, and then those to come, one a line. With
-o json each line is a JSON object; its cursor, given to --after, continues there.

When the control plane is lost, that is said on standard error, and watch goes on when
it is back: no event twice, and all that a restarted one has told of.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := r.check(); err != nil {
				return err
			}
			if r.output == "yaml" {
				return usageError{fmt.Errorf("-o yaml: watch writes lines, want table or json")}
			}
			w := &watcher{
				open: func(ctx context.Context, query url.Values) (io.ReadCloser, http.Header, error) {
					return r.open(ctx, http.MethodGet, "/api/v1/events", query, nil, "")
				},
				out: &page{w: c.OutOrStdout()}, say: &page{w: c.ErrOrStderr()}, json: r.output == "json", address: r.address, cursor: after,
			}
			if !follow {
				return w.once(c.Context())
			}
			return w.follow(c.Context())
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", true, "go on with what is to come")
	c.Flags().Uint64Var(&after, "after", 0, "only events after this cursor")
	return c
}

const (
	// A lost control plane is asked for after about retryFirst, and then after twice as
	// long each time up to retryMost.
	retryFirst = 250 * time.Millisecond
	retryMost  = 5 * time.Second
	// silence is after how long without a line, which come each 15 s even if nothing
	// happens, a stream counts as lost.
	silence = 40 * time.Second
)

// watcher shows events, across streams.
type watcher struct {
	open    func(ctx context.Context, query url.Values) (io.ReadCloser, http.Header, error)
	out     *page // events
	say     *page // what becomes of the stream
	json    bool
	address string

	cursor uint64 // of the newest event that was shown
	run    string // names the process whose cursor that is; "": not known
}

// errSilent is why a stream ends that says nothing any more.
var errSilent = errors.New("it has fallen silent")

// once shows the events that there are.
func (w *watcher) once(ctx context.Context) error {
	body, err := w.ask(ctx, false)
	if err != nil {
		return err
	}
	return w.show(body, func() {})
}

// follow shows events until ctx ends. The first connection has to succeed: who has given a
// wrong address wants to know it.
func (w *watcher) follow(ctx context.Context) error {
	wait, said := retryFirst, ""
	for connected := false; ; {
		up, err := w.stream(ctx, said != "")
		switch {
		case w.out.err != nil:
			return w.out.err // nobody reads any more
		case ctx.Err() != nil:
			return nil // the operator has seen enough
		case !connected && !up:
			return err
		case up:
			connected, wait, said = true, retryFirst, ""
		}
		if text := err.Error(); text != said {
			w.say.printf("controlplane: watch: %s; trying again until ctrl-C\n", text)
			said = text
		}
		select {
		case <-time.After(wait/2 + rand.N(wait/2)): // many may be watching
		case <-ctx.Done():
			return nil
		}
		wait = min(2*wait, retryMost)
	}
}

// stream shows events until the stream ends, and reports whether there was one, and why
// it has ended.
func (w *watcher) stream(ctx context.Context, again bool) (up bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alarm := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer alarm.Stop()
	before := w.run
	body, err := w.ask(ctx, true)
	if err != nil {
		if errors.Is(context.Cause(ctx), errSilent) {
			err = fmt.Errorf("the control plane at %s does not answer", w.address)
		}
		return false, err
	}
	if again {
		what := "is back"
		if w.run != before {
			what = "has been restarted"
		}
		w.say.printf("controlplane: watch: the control plane at %s %s\n", w.address, what)
	}
	err = w.show(body, func() { alarm.Reset(silence) })
	if errors.Is(context.Cause(ctx), errSilent) {
		err = errSilent
	}
	if err == nil {
		err = errors.New("it has ended the stream")
	}
	return true, fmt.Errorf("lost the control plane at %s: %w", w.address, err)
}

// ask begins a stream after the newest event that was shown.
func (w *watcher) ask(ctx context.Context, follow bool) (io.ReadCloser, error) {
	query := url.Values{"follow": {strconv.FormatBool(follow)}, "after": {strconv.FormatUint(w.cursor, 10)}}
	if w.run != "" {
		query.Set("run", w.run)
	}
	body, header, err := w.open(ctx, query)
	if err != nil {
		return nil, err
	}
	w.run = header.Get(controlplane.RunHeader)
	return body, nil
}

// show writes events until the stream ends.
func (w *watcher) show(body io.ReadCloser, heard func()) error {
	defer func() { _ = body.Close() }() // it was only read
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	for w.out.err == nil && lines.Scan() {
		heard()
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue // a sign of life
		}
		var e controlplane.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("not an event: %w", err)
		}
		if w.json {
			w.out.printf("%s\n", line)
		} else {
			w.out.printf("%s  %-9s  %s\n", e.Time.Local().Format("15:04:05.000"), e.Kind, e.Text)
		}
		w.cursor = e.Cursor
	}
	if w.out.err != nil {
		return w.out.err
	}
	return lines.Err()
}
