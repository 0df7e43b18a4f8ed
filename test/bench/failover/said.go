package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// said is what a product says of itself: how often its proxies have taken an endpoint out
// since they began, and how often its control plane has for the fleet. It finds what is too
// short to be seen at the backends. Not a number: the product has no such count.
type said struct{ Proxies, Fleet number }

// since is what was said between two readings.
func (s said) since(before said) said {
	return said{s.Proxies - before.Proxies, s.Fleet - before.Fleet}
}

// saying are the metrics that count a product's ejections: name, and labels of which each
// has one of the values.
type saying struct {
	path   string // of the admin address
	metric string
	labels map[string][]string
}

var (
	sidecarSays = saying{"/metrics", "overhear_belief_changes_total", map[string][]string{"to": {"ejected", "suspended"}}}
	controlSays = saying{"/metrics", "overhear_verdicts_total", map[string][]string{"state": {"ejected", "suspended"}, "scope": {"fleet"}}}
	envoySays   = saying{"/stats/prometheus?filter=ejections_enforced_total", "envoy_cluster_outlier_detection_ejections_enforced_total", nil}
)

// say asks all processes of the fleet.
func (f *fleet) say(ctx context.Context) (said, error) {
	s := said{number(math.NaN()), number(math.NaN())}
	if f.counts.metric != "" {
		s.Proxies = 0
		for _, admin := range f.admins {
			n, err := f.counts.read(ctx, admin)
			if err != nil {
				return s, err
			}
			s.Proxies += n
		}
	}
	if f.api != "" {
		n, err := controlSays.read(ctx, f.api)
		if err != nil {
			return s, err
		}
		s.Fleet = n
	}
	return s, nil
}

// read is their sum; a metric that is not there is one that has counted nothing yet.
func (s saying) read(ctx context.Context, address string) (total number, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+s.path, nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s of %s: %s", s.path, address, res.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(res.Body)
	if err != nil {
		return 0, fmt.Errorf("%s of %s: %w", s.path, address, err)
	}
	for _, m := range families[s.metric].GetMetric() {
		if s.counts(m) {
			total += number(m.GetCounter().GetValue() + m.GetUntyped().GetValue())
		}
	}
	return total, nil
}

// counts says whether the sum has this one.
func (s saying) counts(m *dto.Metric) bool {
	labels := map[string]string{}
	for _, l := range m.GetLabel() {
		labels[l.GetName()] = l.GetValue()
	}
	for name, some := range s.labels {
		if !slices.Contains(some, labels[name]) {
			return false
		}
	}
	return true
}
