package main

import (
	"fmt"
	"io"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/test/sim/world"
)

// tell runs one scenario once and prints every verdict, every refusal and every
// question of the control plane, and what single callers decided for themselves.
func tell(s world.Scenario, seed uint64, out io.Writer) {
	var w *world.World
	at := func(now time.Duration) string { return fmt.Sprintf("%9.3fs", (now - w.Zero()).Seconds()) }
	maker := world.Overhear("overhear", world.Options{
		OnChange: func(c merge.Change) {
			refused := ""
			if c.Refused != "" {
				refused = " refused: " + c.Refused
			}
			fmt.Fprintf(out, "%s fleet    %s %v -> %v for %v by %v%s: %s\n", at(c.At), c.Verdict.Key.Instance, c.From, c.To, c.Verdict.Scope, c.Verdict.Rule, refused, c.Verdict.Explain.Reason)
		},
		OnEvent: func(e merge.Event) {
			fmt.Fprintf(out, "%s event    %s %s %s %s\n", at(e.At), e.Kind, e.Key.Instance, e.Reporter, e.Text)
		},
		OnLocal: func(caller int, c outlier.Change) {
			if c.Fleet || c.Rule == outlier.RuleLatency {
				return
			}
			refused := ""
			if c.Refused != "" {
				refused = " refused: " + c.Refused
			}
			fmt.Fprintf(out, "%s caller %d %s %v -> %v by %v%s\n", at(c.At), caller, c.ID, c.From, c.To, c.Rule, refused)
		},
	})
	w = world.New(s, maker, seed)
	figures := w.Run().Figures()
	for _, name := range world.MeasureNames() {
		if v, ok := figures[name]; ok {
			fmt.Fprintf(out, "%-22s %s\n", name, format(v))
		}
	}
}
