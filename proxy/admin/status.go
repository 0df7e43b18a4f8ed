package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// PrintStatus asks the sidecar whose admin port is at address what it believes,
// and prints that as a table, or its answer as it is: JSON.
func PrintStatus(ctx context.Context, w io.Writer, address string, asJSON bool) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/clusters", nil)
	if err != nil {
		return fmt.Errorf("address %q: %w", address, err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("asking the sidecar at %s: %w", address, err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("asking the sidecar at %s: it answered %s", address, res.Status)
	}
	if asJSON {
		_, err = io.Copy(w, res.Body)
		return err
	}
	var c Clusters
	if err := json.NewDecoder(res.Body).Decode(&c); err != nil {
		return fmt.Errorf("the sidecar at %s: %w", address, err)
	}
	return c.table(w)
}

func (c Clusters) table(w io.Writer) error {
	s := c.Sidecar
	fmt.Fprintf(w, "sidecar %s, %s, up %s", s.Node, s.Version, s.Uptime)
	if s.Zone != "" {
		fmt.Fprintf(w, ", zone %s", s.Zone)
	}
	if s.Draining {
		fmt.Fprint(w, ", DRAINING")
	}
	fmt.Fprintln(w)
	switch cp := s.ControlPlane; {
	case cp == nil:
		fmt.Fprintln(w, "control plane: none configured")
	case cp.Connected:
		reports := "NOT REPORTING"
		switch {
		case cp.Reporting:
			reports = "reporting"
		case cp.Deaf:
			reports = "it takes no reports: this sidecar decides alone"
		}
		fmt.Fprintln(w, "control plane: connected,", reports)
	default:
		fmt.Fprintf(w, "control plane: NOT CONNECTED, resources from %s", cp.Source)
		if cp.Age != "" {
			fmt.Fprintf(w, ", %s old", cp.Age)
		}
		fmt.Fprintln(w)
	}
	if s.ControlPlane != nil {
		for _, r := range s.ControlPlane.Refused {
			fmt.Fprintf(w, "LAST RESPONSE OF TYPE %s REFUSED: %s\n", r.Kind, r.Reason)
		}
		if names := s.ControlPlane.NoListeners; len(names) > 0 {
			fmt.Fprintf(w, "NO LISTENER COMES FROM THE CONTROL PLANE, though control_plane.listeners asks for %s: Overhear's own brings clusters alone, and listeners stand in outbound of this sidecar's file\n",
				strings.Join(names, ", "))
		}
		for _, l := range s.ControlPlane.Listeners {
			if l.Problem != "" {
				fmt.Fprintf(w, "LISTENER %s NOT AS TOLD: %s\n", l.Name, l.Problem)
			}
		}
	}
	if s.ReloadError != "" {
		fmt.Fprintf(w, "LAST RELOAD REFUSED: %s\n", s.ReloadError)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "\nCLUSTER\tENDPOINT\tADDRESS\tSTATE\tSINCE\tSHARE\tATTEMPTS\tFAILED\tINFLIGHT\tNOTE")
	for _, cl := range c.Clusters {
		name := cl.Name
		if cl.Panic {
			name += " (PANIC)"
		}
		for _, e := range cl.Endpoints {
			n := e.Counts
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%.0f%%\t%d\t%d\t%d\t%s\n",
				name, e.ID, e.Address, e.State, e.since(s.UptimeMS), 100*e.Share, n.N, n.Conn+n.Timeout+n.Server, e.Inflight, e.note())
		}
	}
	return tw.Flush()
}

// since is for how long e has been in its state; "-": from the start, or for as long
// as it has been known.
func (e *Endpoint) since(uptimeMS float64) string {
	if e.Change == nil || e.Change.From == e.Change.To {
		return "-"
	}
	d := time.Duration(max(0, uptimeMS-e.Change.AtMS) * float64(time.Millisecond))
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// note says by which rule e is not in, who decided it, and why.
func (e *Endpoint) note() string {
	switch c, v := e.Change, e.Central; {
	case e.State == outlier.In:
		return "-"
	case v != nil && v.State != outlier.In && v.Reason == "":
		return v.Rule.String() + ", fleet"
	case v != nil && v.State != outlier.In:
		return v.Rule.String() + ", fleet: " + v.Reason
	case c != nil:
		return c.Rule.String() + ": " + c.Text
	}
	return "-"
}
