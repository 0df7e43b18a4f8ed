package main

import (
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/controlplane"
	"github.com/overhear-mesh/overhear/xds/server"
)

func statusCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:   "status [SERVICE [ENDPOINT]]",
		Short: "Show services, endpoints and what the fleet believes of them",
		Long: `Show services, endpoints and what the fleet believes of them: of all services, of
one, or of one endpoint (an instance or an address) of it.

RATE is of the attempts of all who report, together: an exponential mean, in which a
second half a minute ago weighs a third of the newest one. Who sees nothing fail tells
of it each ten seconds; until then RATE is "-", as it is of an endpoint without traffic.
FAILED is how many of these failed in the newest ten seconds, and what share that is; of
sidecars that see nothing fail, the usual attempts count as well, for they tell of
them only each ten seconds. Failed probes of an endpoint that is out are no attempts.
The usual error rate of a service is of the last half minute or hundred attempts of its
better endpoints, while they were in; a verdict measures by it.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 2 {
				return usageError{fmt.Errorf("status wants a service and an endpoint of it at most, got %q as well", args[2])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := r.check(); err != nil {
				return err
			}
			query := url.Values{}
			for i, name := range []string{"service", "endpoint"}[:len(args)] {
				query.Set(name, args[i])
			}
			var st controlplane.Status
			answer, err := r.get(c.Context(), "/api/v1/status", query, &st)
			if err != nil {
				return err
			}
			return r.print(c.OutOrStdout(), answer, func(w io.Writer) error { return printStatus(w, st) })
		},
	}
}

func printStatus(w io.Writer, st controlplane.Status) error {
	p := &page{w: w}
	p.printf("control plane %s, up %s, %s\n", st.Version, span(st.Now.Sub(st.Started)), count(st.Reporters, "reporter"))
	if !st.Ready {
		p.printf("NOT READY: it has been restarted and answers no client yet")
		if len(st.Awaiting) > 0 {
			p.printf("; it waits for %s", strings.Join(st.Awaiting, ", "))
		}
		p.printf("\n")
	}
	if reg := st.Registry; reg.LastError != "" {
		p.printf("THE MESH FILE WAS REFUSED %s ago, the one of before is in force:\n", span(st.Now.Sub(reg.FailedAt)))
		for line := range strings.Lines(reg.LastError) {
			p.printf("  %s\n", strings.TrimSuffix(line, "\n"))
		}
	}
	for _, s := range st.Services {
		p.printf("\n%s (%s), used by %s, usual error rate %s", s.Name, s.Protocol, count(s.Reporters, "reporter"), baseRate(s))
		if s.Mode == outlier.Shadow {
			p.printf(", SHADOW: nothing but orders is acted upon")
		}
		p.printf("\n")
		p.table(func(line func(string, ...any)) {
			line("  ENDPOINT\tADDRESS\tZONE\tSTATE\tSINCE\tRATE\tFAILED (%s)\tNOTE", window(s))
			for _, e := range s.Endpoints {
				since := "-"
				if !e.SinceTime.IsZero() {
					since = span(st.Now.Sub(e.SinceTime))
				}
				line("  %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", e.Instance, e.Address, orDash(e.Zone), e.State, since,
					rate(e.Rate), failed(e.Recent), notes(e, st.Now))
			}
		})
	}
	return p.err
}

// baseRate is how often a service's endpoints fail when all is well.
func baseRate(s controlplane.ServiceStatus) string {
	if !s.Measured {
		return "not measured yet (" + percent(s.BaseRate) + " is assumed)"
	}
	return percent(s.BaseRate)
}

// window is how far the counts of a service's endpoints look back.
func window(s controlplane.ServiceStatus) string {
	if len(s.Endpoints) == 0 {
		return "lately"
	}
	return span(time.Duration(s.Endpoints[0].Recent.Within))
}

// failed is how many attempts of the newest seconds failed, with their share.
func failed(r merge.Recent) string {
	switch {
	case r.N == 0:
		return "-"
	case r.K == 0:
		return "0"
	}
	return fmt.Sprintf("%d, %s", r.K, percent(r.Share()))
}

// notes are what an operator should know of an endpoint beside its state.
func notes(e controlplane.EndpointStatus, now time.Time) string {
	var all []string
	if e.State != outlier.In && e.Rule != outlier.RuleNone {
		all = append(all, e.Rule.String())
	}
	if away := time.Duration(e.Away); away > 0 && away > now.Sub(e.SinceTime)+time.Second {
		all = append(all, "out for "+span(away)+" in all")
	}
	if e.Override != nil {
		all = append(all, fmt.Sprintf("%s by %s: %s", e.Override.Kind, e.Override.By, e.Override.Reason))
	}
	for _, z := range e.Zones {
		all = append(all, fmt.Sprintf("%s for callers in %s (%s)", z.State, z.Zone, z.Rule))
	}
	if e.Weight > 0 {
		all = append(all, fmt.Sprintf("slow: %.0f%% of its share", 100*e.Weight))
	}
	if e.Suspected {
		all = append(all, "others are being asked about it")
	}
	if e.Avoiders > 0 && !e.State.Out() {
		all = append(all, "avoided locally by "+count(e.Avoiders, "sidecar"))
	}
	if e.Idle {
		all = append(all, "idle, pinged")
	}
	if len(all) == 0 {
		return "-"
	}
	return strings.Join(all, "; ")
}

func reportersCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:   "reporters",
		Short: "Show who reports, and what of it is believed",
		Long: `Show who reports, and what of it is believed.

REFUSED counts what was set aside: by the evidence table, and of the stream since it
began; NOTE has the newest reason of the stream. Clusters of an Envoy that are no
services of the mesh do not count: it has at least the one that leads to the control
plane. They are named while nothing of the Envoy was accepted. An Envoy that only
probes or logs is no reporter; the log and the metrics have what it gets wrong.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := r.check(); err != nil {
				return err
			}
			var all controlplane.Reporters
			answer, err := r.get(c.Context(), "/api/v1/reporters", nil, &all)
			if err != nil {
				return err
			}
			return r.print(c.OutOrStdout(), answer, func(w io.Writer) error { return printReporters(w, all) })
		},
	}
}

func printReporters(w io.Writer, all controlplane.Reporters) error {
	p := &page{w: w}
	if len(all.Reporters) == 0 {
		p.printf("nobody reports\n")
		return p.err
	}
	p.table(func(line func(string, ...any)) {
		line("REPORTER\tZONE\tFAULT DOMAIN\tSTREAM\tHEARD\tSELF-DOUBT\tACCEPTED\tREFUSED\tNOTE")
		for _, one := range all.Reporters {
			stream, refused := "open", uint64(0)
			if !one.Live {
				stream = "lost"
			}
			for _, n := range one.Refused {
				refused += n
			}
			line("%s\t%s\t%s\t%s\t%s ago\t%d/7\t%d\t%d\t%s", one.ID, orDash(one.Zone), one.Domain, stream,
				span(time.Duration(one.Heard)), one.LHM, one.Accepted, refused, reporterNotes(one, all.Now))
		}
	})
	return p.err
}

// reporterNotes are what an operator should know of a reporter beside its counts.
func reporterNotes(r controlplane.ReporterStatus, now time.Time) string {
	var all []string
	if client := r.Labels["client"]; client != "" && !r.Muted {
		all = append(all, client+", by load reports")
	}
	if r.Muted {
		all = append(all, "muted: "+r.Reason)
	}
	if r.LastRefusal != "" {
		all = append(all, fmt.Sprintf("refused %s ago: %s", span(now.Sub(r.LastRefusedAt)), r.LastRefusal))
	}
	if r.Accepted == 0 && len(r.UnknownClusters) > 0 {
		all = append(all, fmt.Sprintf("no services of the mesh: %q", r.UnknownClusters))
	}
	return orDash(strings.Join(all, "; "))
}

func clientsCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:   "clients",
		Short: "Show who is served over xDS, and what each has accepted",
		Long: `Show who is served over xDS, and what each has accepted.

MISSING is how many names a client asks for that do not exist, and the first of them:
one that is misspelt, or that is not in the mesh yet.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := r.check(); err != nil {
				return err
			}
			var all controlplane.Clients
			answer, err := r.get(c.Context(), "/api/v1/clients", nil, &all)
			if err != nil {
				return err
			}
			return r.print(c.OutOrStdout(), answer, func(w io.Writer) error { return printClients(w, all) })
		},
	}
}

func printClients(w io.Writer, all controlplane.Clients) error {
	p := &page{w: w}
	if len(all.Clients) == 0 {
		p.printf("nobody is served\n")
		return p.err
	}
	p.table(func(line func(string, ...any)) {
		line("NODE\tKIND\tZONE\tPROTOCOL\tSINCE\tTYPE\tRESOURCES\tMISSING\tWAITING\tREFUSED\tLAST REFUSAL")
		for _, one := range all.Clients {
			protocol := "sotw"
			if one.Delta {
				protocol = "delta"
			}
			for _, typ := range one.Types {
				line("%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%d\t%d\t%s", one.Node, one.Kind, orDash(one.Zone), protocol, span(all.Now.Sub(one.Since)),
					typ.TypeURL[strings.LastIndexByte(typ.TypeURL, '.')+1:], typ.Resources, missing(typ), typ.Waiting, typ.NACKs, orDash(typ.LastNACK))
			}
		}
	})
	return p.err
}

// missing counts the names that do not exist, and shows a few.
func missing(t server.TypeStatus) string {
	if t.Missing == 0 {
		return "0"
	}
	var names []string
	for _, name := range t.MissingNames[:min(3, len(t.MissingNames))] {
		names = append(names, fmt.Sprintf("%.60q", name))
	}
	if t.Missing > len(names) {
		names = append(names, "…")
	}
	return fmt.Sprintf("%d: %s", t.Missing, strings.Join(names, ", "))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func percent(share float64) string {
	switch {
	case share == 0:
		return "0%"
	case share < 0.001:
		return "<0.1%"
	}
	return fmt.Sprintf("%.1f%%", share*100)
}

func rate(perSecond float64) string {
	switch {
	case perSecond < 0.05:
		return "-"
	case perSecond < 10:
		return fmt.Sprintf("%.1f/s", perSecond)
	}
	return fmt.Sprintf("%.0f/s", perSecond)
}

// span is a length of time with no more digits than a person needs.
func span(d time.Duration) string {
	switch d = max(0, d); {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}
