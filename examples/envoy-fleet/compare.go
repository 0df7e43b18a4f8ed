package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/overhear-mesh/overhear/test/trial"
)

// side is who finds the faults.
type side struct {
	name, what string
	// detection is the outlier_detection of the Envoys' cluster; nil: ours.
	detection map[string]any
}

var ours = side{name: "overhear", what: "what all Envoys report, merged"}

// own are the sides on which each Envoy decides alone.
func own() []side {
	return []side{
		{"envoy", "Envoy's outlier_detection, default", map[string]any{}},
		{"envoy-tuned", "Envoy's outlier_detection, tuned to find 20 % errors in seconds", map[string]any{
			"interval": "1s", "success_rate_request_volume": 5, "max_ejection_percent": 50,
		}},
	}
}

// line is one of the comparison. It is measured alike on every side: by what users lost,
// and by what the Envoys say of their endpoints.
type line struct {
	Fault string `json:"fault"`
	Side  string `json:"side"`
	// FirstMS and FoundMS are when the first and the last of the Envoys had taken the
	// endpoint out; null: that did not happen.
	FirstMS *float64 `json:"first_ms"`
	FoundMS *float64 `json:"found_ms"`
	Found   int      `json:"found_by"`
	// Failed are requests that failed for the fault's sake and began before the last
	// Envoy had it out, Later the others while it lasted.
	Failed int `json:"failed_requests"`
	Later  int `json:"failed_later"`
	// Wrong counts endpoints without a fault that Envoys took out, for each Envoy.
	Wrong int `json:"false_ejections"`
}

// measure is what came of a fault. had are the endpoints that had one before, which may be
// on their way back.
func measure(s side, r result, envoys int, had []string, out *lookout, l *trial.Ledger) line {
	m := line{Fault: r.Name, Side: s.name}
	found := r.Mended
	taken := map[int]struct{}{}
	for _, x := range out.between(r.Began, r.Mended) {
		if x.endpoint != r.Endpoint {
			if !slices.Contains(had, x.endpoint) {
				m.Wrong++
			}
			continue
		}
		if _, again := taken[x.envoy]; again {
			continue
		}
		taken[x.envoy] = struct{}{}
		if m.Found++; m.Found == 1 {
			m.FirstMS = trial.MS(x.at.Sub(r.Began))
		}
		if m.Found == envoys {
			m.FoundMS, found = trial.MS(x.at.Sub(r.Began)), x.at
		}
	}
	if r.Endpoint == "" {
		return m // its failures are nobody's fault
	}
	for _, q := range l.Lost(r.lost) {
		if q.Began.Before(found) {
			m.Failed++
		} else {
			m.Later++
		}
	}
	return m
}

// byThemselves shows one fault to Envoys that decide alone. They are new for each: by
// default an Envoy ejects no more than a tenth of its endpoints, and for half a minute.
func byThemselves(ctx context.Context, o options, s side, one fault, binary, dir string, say func(string, ...any)) (line, error) {
	dir = filepath.Join(dir, s.name+"-"+one.name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return line{}, err
	}
	l := &trial.Ledger{}
	f, err := start(ctx, o, s, binary, dir, l)
	if err != nil {
		return line{}, err
	}
	defer f.stop()
	defer f.drive(ctx, o)()
	if err := trial.Sleep(ctx, warmUp); err != nil {
		return line{}, err
	}
	r, err := f.happen(ctx, one, say, func(r *result) {
		for deadline := time.Now().Add(longest); f.lookout.takers(r.Endpoint, r.Began) < o.envoys && time.Now().Before(deadline); {
			if trial.Sleep(ctx, lookEvery) != nil {
				return
			}
		}
	})
	if err != nil {
		return line{}, err
	}
	return measure(s, r, o.envoys, nil, &f.lookout, l), nil
}

// beside shows the faults to the sides that are not ours.
func beside(ctx context.Context, o options, binary, dir string, say func(string, ...any)) ([]line, error) {
	var lines []line
	for _, s := range o.sides() {
		say("\nthe same by %s", s.what)
		for _, one := range o.chosen() {
			m, err := byThemselves(ctx, o, s, one, binary, dir, say)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", s.name, one.name, err)
			}
			lines = append(lines, m)
		}
	}
	return lines, nil
}

// alone makes of the bootstrap one of an Envoy that has these endpoints, decides for itself
// about them, and reports to nobody.
func alone(bootstrap string, detection map[string]any, addresses []string) (string, error) {
	var b struct {
		Node   any `yaml:"node" json:"node"`
		Admin  any `yaml:"admin" json:"admin"`
		Static struct {
			Listeners any              `yaml:"listeners" json:"listeners"`
			Clusters  []map[string]any `yaml:"clusters" json:"clusters"`
		} `yaml:"static_resources" json:"static_resources"`
	}
	if err := yaml.Unmarshal([]byte(bootstrap), &b); err != nil {
		return "", err
	}
	var endpoints []any
	for _, a := range addresses {
		ip, err := netip.ParseAddrPort(a)
		if err != nil {
			return "", err
		}
		at := map[string]any{"address": map[string]any{"socket_address": map[string]any{"address": ip.Addr().String(), "port_value": ip.Port()}}}
		endpoints = append(endpoints, map[string]any{"endpoint": at})
	}
	b.Static.Clusters = slices.DeleteFunc(b.Static.Clusters, func(c map[string]any) bool { return c["name"] != "api" })
	for _, c := range b.Static.Clusters {
		delete(c, "eds_cluster_config")
		c["type"] = "STATIC"
		c["outlier_detection"] = detection
		c["load_assignment"] = map[string]any{"cluster_name": "api", "endpoints": []any{map[string]any{"lb_endpoints": endpoints}}}
	}
	text, err := json.Marshal(b) // which is YAML too
	return string(text), err
}

// printComparison prints the lines of each fault side by side.
func printComparison(lines []line, envoys int, print func(string, ...any)) {
	print("\n%-10s %-12s %10s %10s %6s %8s %8s %8s\n", "fault", "by", "first", "all", "of", "failed", "later", "false")
	for _, one := range names() {
		for _, m := range lines {
			if m.Fault == one {
				print("%-10s %-12s %10s %10s %3d/%-2d %8d %8d %8d\n", m.Fault, m.Side, trial.Span(m.FirstMS), trial.Span(m.FoundMS), m.Found, envoys, m.Failed, m.Later, m.Wrong)
			}
		}
	}
	print("\nfirst, all: from the fault until the first and the last Envoy had the endpoint out, as their admin\n"+
		"pages say, which are read each %v; failed: requests that failed for the fault's sake and began\n"+
		"before that; later: those after it, while the fault lasted; false: endpoints without a fault that\n"+
		"were taken out, counted for each Envoy.\n", lookEvery)
}

// drive sends requests through the Envoys until what it gives is called.
func (f *fleet) drive(ctx context.Context, o options) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var users sync.WaitGroup
	for _, entry := range f.entries {
		users.Go(func() { drive(ctx, "http://"+entry, o.rate/float64(o.envoys), f.ledger) })
	}
	return func() { cancel(); users.Wait() }
}
