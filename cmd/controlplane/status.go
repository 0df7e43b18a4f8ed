package main

import (
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/xds/controlplane"
)

func statusCommand(r *remote) *cobra.Command {
	var service string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show services, endpoints and what the fleet believes of them",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := r.check(); err != nil {
				return err
			}
			query := url.Values{}
			if service != "" {
				query.Set("service", service)
			}
			var st controlplane.Status
			answer, err := r.get(c.Context(), "/api/v1/status", query, &st)
			if err != nil {
				return err
			}
			return r.print(c.OutOrStdout(), answer, func(w io.Writer) error { return printStatus(w, st) })
		},
	}
	c.Flags().StringVar(&service, "service", "", "only this service")
	return c
}

func printStatus(w io.Writer, st controlplane.Status) error {
	fmt.Fprintf(w, "control plane %s, up %s, %s reporting\n", st.Version, span(st.Now.Sub(st.Started)), count(st.Reporters, "sidecar"))
	if !st.Ready {
		fmt.Fprint(w, "NOT READY: it has been restarted and answers no client yet")
		if len(st.Awaiting) > 0 {
			fmt.Fprintf(w, "; it waits for %s", strings.Join(st.Awaiting, ", "))
		}
		fmt.Fprintln(w)
	}
	if reg := st.Registry; reg.LastError != "" {
		fmt.Fprintf(w, "THE MESH FILE WAS REFUSED %s ago, the one of before is in force:\n", span(st.Now.Sub(reg.FailedAt)))
		for line := range strings.Lines(reg.LastError) {
			fmt.Fprintf(w, "  %s\n", strings.TrimSuffix(line, "\n"))
		}
	}
	for _, s := range st.Services {
		fmt.Fprintf(w, "\n%s (%s), used by %s, usual error rate %s", s.Name, s.Protocol, count(s.Reporters, "sidecar"), percent(s.BaseRate))
		if s.Mode == outlier.Shadow {
			fmt.Fprint(w, ", SHADOW: nothing is acted upon")
		}
		fmt.Fprintln(w)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "  ENDPOINT\tADDRESS\tZONE\tSTATE\tSINCE\tRATE\tERRORS\tNOTE")
		for _, e := range s.Endpoints {
			since := "-"
			if !e.SinceTime.IsZero() {
				since = span(st.Now.Sub(e.SinceTime))
			}
			fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.Instance, e.Address, orDash(e.Zone), e.State, since,
				rate(e.Rate), percent(e.ErrorRate), notes(e))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// notes are what an operator should know of an endpoint beside its state.
func notes(e controlplane.EndpointStatus) string {
	var all []string
	if e.State != outlier.In && e.Rule != outlier.RuleNone {
		all = append(all, e.Rule.String())
	}
	if e.Override != nil {
		all = append(all, fmt.Sprintf("%s by %s: %s", e.Override.Kind, e.Override.By, e.Override.Reason))
	}
	for _, z := range e.Zones {
		all = append(all, fmt.Sprintf("%s for callers in %s (%s)", z.State, z.Zone, z.Rule))
	}
	if e.Suspected {
		all = append(all, "suspected")
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
		Args:  noArgs,
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
	if len(all.Reporters) == 0 {
		_, err := fmt.Fprintln(w, "nobody reports")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "REPORTER\tZONE\tFAULT DOMAIN\tSTREAM\tHEARD\tSELF-DOUBT\tACCEPTED\tREFUSED\tNOTE")
	for _, one := range all.Reporters {
		stream, note, refused := "open", "-", uint64(0)
		if !one.Live {
			stream = "lost"
		}
		if one.Muted {
			note = "muted: " + one.Reason
		}
		for _, n := range one.Refused {
			refused += n
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s ago\t%d/7\t%d\t%d\t%s\n", one.ID, orDash(one.Zone), one.Domain, stream,
			span(time.Duration(one.Heard)), one.LHM, one.Accepted, refused, note)
	}
	return t.Flush()
}

func clientsCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:   "clients",
		Short: "Show who is served over xDS, and what each has accepted",
		Args:  noArgs,
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
	if len(all.Clients) == 0 {
		_, err := fmt.Fprintln(w, "nobody is served")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tKIND\tZONE\tPROTOCOL\tSINCE\tTYPE\tRESOURCES\tWAITING\tREFUSED\tLAST REFUSAL")
	for _, one := range all.Clients {
		protocol := "sotw"
		if one.Delta {
			protocol = "delta"
		}
		for _, typ := range one.Types {
			_, short, _ := strings.Cut(typ.TypeURL, "/")
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", one.Node, one.Kind, orDash(one.Zone), protocol, span(all.Now.Sub(one.Since)),
				short[strings.LastIndexByte(short, '.')+1:], typ.Resources, typ.Waiting, typ.NACKs, orDash(typ.LastNACK))
		}
	}
	return t.Flush()
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
