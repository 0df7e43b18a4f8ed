package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/replay"
)

func replayCommand() *cobra.Command {
	var config, against, output string
	var seed uint64
	c := &cobra.Command{
		Use:   "replay FILE...",
		Short: "Say what a policy would have done with what sidecars have recorded",
		Long: `Replay what sidecars have recorded ("record" in a sidecar's file) under the policy
of a mesh file, and compare what would have been ejected, when and why, and what
would have come back, with the verdicts that were really held.

FILEs may be of several sidecars, in any order, rotated ones included. What two of
them have in common, as copies do, counts once. What a
policy asks that nobody was asked then is answered out of the record as far as
that goes: the documentation of xds/replay says how, and how far to believe it.

With --against, the same for a second mesh file, and where the two differ.

A recording that ends in the middle of a write, as a crash leaves it, counts up to
there; one that is damaged does so, too, and the exit status is 1.`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("replay wants the files that sidecars have recorded")}
			}
			if err := (&remote{output: output}).check(); err != nil {
				return err
			}
			var policies []replay.Policy
			for _, path := range []string{config, against} {
				if path == "" {
					continue
				}
				policy, err := loadPolicy(path, seed)
				if err != nil {
					return err
				}
				policies = append(policies, policy)
			}
			return runReplay(c, args, policies, []string{config, against}, output)
		},
	}
	c.Flags().StringVarP(&config, "config", "c", "mesh.yaml", "mesh file with the policy to try")
	c.Flags().StringVar(&against, "against", "", "second mesh file, to compare with")
	c.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	c.Flags().Uint64Var(&seed, "seed", 1, "of the choice among equal sidecars; a live control plane logs its own")
	return c
}

func loadPolicy(path string, seed uint64) (replay.Policy, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return replay.Policy{}, err
	}
	f, err := decodeMeshFile(path, data)
	if err != nil {
		return replay.Policy{}, err
	}
	return replay.Policy{Mesh: &f.Mesh, Merge: f.ControlPlane.Merge, Seed: seed}, nil
}

func runReplay(c *cobra.Command, paths []string, policies []replay.Policy, names []string, output string) error {
	files := make([]replay.File, len(paths))
	for i, path := range paths {
		files[i] = replay.File{Name: path, Open: func() (io.ReadCloser, error) { return os.Open(path) }}
	}
	recordings, err := replay.Scan(files)
	if err != nil {
		return err
	}
	var outcomes []*replay.Outcome
	for _, policy := range policies {
		outcome, err := recordings.Replay(policy)
		if err != nil {
			return err
		}
		outcomes = append(outcomes, outcome)
	}
	var result any = outcomes[0]
	table := func(w io.Writer) error { return printReplay(w, outcomes[0], names[0]) }
	if len(outcomes) == 2 {
		diff := replay.Compare(outcomes[0], outcomes[1])
		result = diff
		table = func(w io.Writer) error { return printDiff(w, diff, names[0], names[1]) }
	}
	text, err := json.MarshalIndent(result, "", "  ")
	if err != nil {
		return err
	}
	if err := (&remote{output: output}).print(c.OutOrStdout(), append(text, '\n'), table); err != nil {
		return err
	}
	damaged := 0
	for _, p := range recordings.Problems {
		c.PrintErrf("controlplane: %s; what came before was replayed\n", p)
		if p.Damaged {
			damaged++
		}
	}
	if damaged > 0 {
		return fmt.Errorf("%s not replayed to the end", count(damaged, "recording"))
	}
	return nil
}

// printHead says what was replayed.
func printHead(p *page, o *replay.Outcome) {
	p.printf("%s of %s, %s to %s (%s), %s\n", count(len(o.Sidecars), "recording sidecar"), count(o.Judged, "endpoint"),
		o.From.Local().Format("2006-01-02 15:04:05.000"), clock(o.To, o.From), span(o.To.Sub(o.From)), count(messages(o), "message"))
	for _, s := range o.Sidecars {
		if s.Lost > 0 {
			p.printf("%s lost %s: its disk was too slow, or full\n", s.ID, count(int(s.Lost), "message"))
		}
	}
	for _, again := range o.Repeats {
		p.printf("%s repeats %s of %s that another file has: they count once\n", again.File, count(again.Messages, "message"), again.Sidecar)
	}
	if n := len(o.Unknown); n > 0 {
		p.printf("%s in the recordings but not in the mesh file, and judged all the same: %s\n", count(n, "endpoint"), list(o.Unknown, 10))
	}
}

func messages(o *replay.Outcome) int {
	n := 0
	for _, s := range o.Sidecars {
		n += s.Messages
	}
	return n
}

func list(keys []merge.Key, most int) string {
	var names []string
	for _, k := range keys[:min(len(keys), most)] {
		names = append(names, k.String())
	}
	if more := len(keys) - most; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}

// printReplay writes what a policy would have done, in the order of time, and then
// beside what was.
func printReplay(w io.Writer, o *replay.Outcome, name string) error {
	p := &page{w: w}
	printHead(p, o)
	p.printf("\nunder %s", name)
	if len(o.Changes) == 0 {
		p.printf(" nothing would have been decided\n")
	} else {
		p.printf("\n")
		p.table(func(line func(string, ...any)) {
			line("  TIME\tENDPOINT\tFOR\tWOULD HAVE BEEN\tRULE\tWHY")
			for _, c := range o.Changes {
				would := fmt.Sprintf("%s -> %s", c.From, c.To)
				if c.HeldBack != "" {
					would = fmt.Sprintf("%s, not %s: %s", c.From, c.To, c.HeldBack)
				}
				line("  %s\t%s\t%s\t%s\t%s\t%s", clock(c.Time, o.From), c.Key, whom(c.Scope), would, c.Rule, c.Reason)
			}
		})
	}
	p.printf("\n")
	if len(o.Endpoints) == 0 {
		p.printf("nothing was out\n")
	} else {
		p.table(func(line func(string, ...any)) {
			line("  ENDPOINT\tWOULD HAVE BEEN OUT\tWAS HELD OUT\tTAKEN OUT BY SINGLE SIDECARS")
			for _, e := range o.Endpoints {
				line("  %s\t%s\t%s\t%s", e.Key, spells(e.Would, o), spells(e.Held, o), times(e.Alone))
			}
		})
	}
	printAnswers(p, o)
	return p.err
}

// spells are times out, in a line.
func spells(all []replay.Spell, o *replay.Outcome) string {
	if len(all) == 0 {
		return "never"
	}
	var parts []string
	for _, s := range all {
		still := ""
		if s.To.IsZero() {
			still = ", to the end"
		}
		zone := ""
		if s.Scope != merge.Fleet {
			zone = " for " + whom(s.Scope)
		}
		parts = append(parts, fmt.Sprintf("%s%s for %s (%s%s)", clock(s.From, o.From), zone, span(s.Length(o.To)), s.Rule, still))
	}
	return strings.Join(parts, "; ")
}

func times(n int) string {
	if n == 0 {
		return "never"
	}
	return count(n, "time")
}

// printAnswers says how much of what was asked the record could answer.
func printAnswers(p *page, o *replay.Outcome) {
	a := o.Answers
	p.printf("\n")
	if a.Probes > 0 {
		p.printf("%s: %d answered by what the same sidecar recorded, %d by its traffic, %d by what others knew, %d not run\n",
			count(a.Probes, "probe"), a.Own, a.Traffic, a.Others, a.NotRun)
	}
	if a.Polls > 0 {
		p.printf("%s of single sidecars: %d answered by the reports around them\n", count(a.Polls, "poll"), a.Counted)
	}
	if a.Pings+a.Unused > 0 {
		p.printf("%s in the record went to holders of leases, %d fitted nothing\n", count(a.Pings, "result"), a.Unused)
	}
	for _, why := range slices.Sorted(maps.Keys(o.Refused)) {
		p.printf("not believed, %s: %d\n", why, o.Refused[why])
	}
}

// printDiff writes where two policies differ.
func printDiff(w io.Writer, d replay.Diff, a, b string) error {
	p := &page{w: w}
	printHead(p, d.A)
	p.printf("\n")
	p.table(func(line func(string, ...any)) {
		line("  POLICY\tEJECTIONS AND SUSPENSIONS\tTIME OUT IN ALL\tHELD BACK")
		for _, o := range []struct {
			name string
			*replay.Outcome
		}{{a, d.A}, {b, d.B}} {
			n, out, back := 0, time.Duration(0), 0
			for _, e := range o.Endpoints {
				for _, s := range e.Would {
					n++
					out += s.Length(o.To)
				}
			}
			for _, c := range o.Changes {
				if c.HeldBack != "" {
					back++
				}
			}
			line("  %s\t%d\t%s\t%d", o.name, n, span(out), back)
		}
	})
	p.printf("\n")
	if len(d.Endpoints) == 0 {
		p.printf("both would have done the same\n")
		return p.err
	}
	p.table(func(line func(string, ...any)) {
		line("  ENDPOINT\tOUT UNDER %s\tOUT UNDER %s", a, b)
		for _, e := range d.Endpoints {
			line("  %s\t%s\t%s", e.Key, spells(e.A, d.A), spells(e.B, d.B))
		}
	})
	if d.Alike > 0 {
		p.printf("\nboth would have done the same with %s\n", count(d.Alike, "other endpoint"))
	}
	return p.err
}
