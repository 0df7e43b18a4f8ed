package router

import (
	"cmp"

	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/resilience"
)

// Mirror sends copies of a rule's requests to another cluster, whose answers nobody
// gets. Requests are copied as they go out, once, if all of their body is there when
// they do, or fits into the retry buffer. The copy's host ends in -shadow.
type Mirror struct {
	// Cluster is where copies go.
	Cluster string `yaml:"cluster"`
	// Share of the requests; default 100%.
	Share float64 `yaml:"share"`
}

// DefaultMirror copies every request.
func DefaultMirror() Mirror { return Mirror{Share: 1} }

func (m *Mirror) wrong(field string, wrong func(field, format string, args ...any)) {
	if m.Cluster == "" {
		wrong(field+".cluster", "missing: want the name of a cluster")
	}
	wrongShare(field+".share", m.Share, wrong)
}

// Reflection is the mirror of a route.
type Reflection struct {
	Share float64
	// Route of the copies. It changes nothing, and repeats nothing.
	Route *Route
}

// reflection is that of the rule; nil: none.
func (r *Rule) reflection(name string, resolve func(string) *cluster.Cluster, ids *IDs) *Reflection {
	if r.Mirror == nil {
		return nil
	}
	to := r.Mirror.Cluster
	return &Reflection{Share: r.Mirror.Share, Route: &Route{
		ID: ids.of(name + "\x00mirror\x00" + to), Name: name, ClusterName: to, Cluster: resolve(to),
		Timeout: cmp.Or(r.Timeout, DefaultRule().Timeout), // somebody must end it
		Retry:   &resilience.RetryPolicy{MaxAttempts: 1},
	}}
}
