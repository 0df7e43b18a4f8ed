package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

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
-o json each line is a JSON object; its cursor, given to --after, continues there.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := r.check(); err != nil {
				return err
			}
			if r.output == "yaml" {
				return usageError{fmt.Errorf("-o yaml: watch writes lines, want table or json")}
			}
			return watch(c.Context(), r, c.OutOrStdout(), after, follow)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", true, "go on with what is to come")
	c.Flags().Uint64Var(&after, "after", 0, "only events after this cursor")
	return c
}

func watch(ctx context.Context, r *remote, w io.Writer, after uint64, follow bool) error {
	query := url.Values{"follow": {strconv.FormatBool(follow)}, "after": {strconv.FormatUint(after, 10)}}
	body, err := r.open(ctx, http.MethodGet, "/api/v1/events", query, nil, "")
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // it was only read
	p := &page{w: w}
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	for p.err == nil && lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue // a sign of life
		}
		if r.output == "json" {
			p.printf("%s\n", line)
			continue
		}
		var e controlplane.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("not an event: %w", err)
		}
		p.printf("%s  %-9s  %s\n", e.Time.Local().Format("15:04:05.000"), e.Kind, e.Text)
	}
	if p.err != nil {
		return p.err
	}
	if ctx.Err() != nil {
		return nil // the operator has seen enough
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if follow {
		return fmt.Errorf("the control plane at %s has ended the stream", r.address)
	}
	return nil
}
