package ingest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// oldEnvoy is an Envoy that does not report, with its admin page.
type oldEnvoy struct {
	mu      sync.Mutex
	node    string
	started time.Time
	hosts   map[int]counters // of api
	answer  func(http.ResponseWriter) bool
}

const adminAt = "10.4.0.1:9901"

func (e *oldEnvoy) set(change func(*oldEnvoy)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(e)
}

// add lets an endpoint have had so much more.
func (e *oldEnvoy) add(i int, more counters) {
	e.set(func(e *oldEnvoy) {
		h := e.hosts[i]
		h.ok, h.failed, h.issued, h.active = h.ok+more.ok, h.failed+more.failed, h.issued+more.issued, more.active
		h.timeout, h.unconnected = h.timeout+more.timeout, h.unconnected+more.unconnected
		e.hosts[i] = h
	})
}

func (e *oldEnvoy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	answer := e.answer
	e.mu.Unlock()
	if answer != nil && answer(w) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.URL.Path == "/server_info" {
		node := &corev3.Node{Id: e.node, UserAgentName: "envoy", Locality: &corev3.Locality{Zone: "a"}}
		text, err := protojson.Marshal(&adminv3.ServerInfo{Node: node, UptimeCurrentEpoch: durationpb.New(time.Since(e.started).Truncate(time.Second))})
		if err == nil {
			_, err = w.Write(text)
		}
		if err != nil {
			panic(err)
		}
		return
	}
	text, err := protojson.Marshal(clustersOf(e.hosts))
	if err == nil {
		_, err = w.Write(text)
	}
	if err != nil {
		panic(err)
	}
}

func clustersOf(hosts map[int]counters) *adminv3.Clusters {
	c := &adminv3.ClusterStatus{Name: "api"}
	for i, n := range hosts {
		h := &adminv3.HostStatus{Address: row(i, sample{}).Address}
		for name, v := range map[string]uint64{
			"rq_success": n.ok, "rq_error": n.failed, "rq_total": n.issued, "rq_active": n.active,
			"rq_timeout": n.timeout, "cx_connect_fail": n.unconnected, "cx_active": 3,
		} {
			h.Stats = append(h.Stats, &adminv3.SimpleMetric{Name: name, Value: v})
		}
		c.HostStatuses = append(c.HostStatuses, h)
	}
	return &adminv3.Clusters{ClusterStatuses: []*adminv3.ClusterStatus{c}}
}

// otherAt is another way to the same page.
const otherAt = "10.4.0.1:9902"

// newPolled is a collector that polls one Envoy, which is a second old, and also others.
func newPolled(t *testing.T, also ...string) (*world, *oldEnvoy) {
	cfg := DefaultConfig()
	cfg.Poll = append(also, adminAt)
	w := newWorldOf(t, cfg, 64)
	w.dial = w.net.Host("10.0.0.9").Dial
	e := &oldEnvoy{node: "envoy-1", started: time.Now().Add(-second), hosts: map[int]counters{1: {sample: sample{ok: 1000, failed: 10, issued: 1010}}, 2: {}}}
	server := &http.Server{Handler: e}
	for _, port := range []string{":9901", ":9902"} {
		ln, err := w.net.Host("10.4.0.1").Listen(t.Context(), "tcp", port)
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = server.Serve(ln) }()
	}
	ctx, cancel := context.WithCancel(t.Context())
	var polling sync.WaitGroup
	polling.Go(func() { _ = w.Poll(ctx) })
	t.Cleanup(func() { cancel(); polling.Wait(); _ = server.Close() })
	return w, e
}

// settle lets time pass, and what is due then happen.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// last is the newest that was told of an endpoint.
func (k *sink) last(key merge.Key) (c merge.Cell) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.reports {
		if got := cell(r, key); got.Key == key {
			c = got
		}
	}
	return c
}

func TestAnEnvoyThatIsPolledIsAReporterOfWhatHappensFromThenOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, e := newPolled(t)
		settle(ms(100))
		if c := w.sink.last(api1); c.Counts.N != 0 {
			t.Errorf("at first %+v is told, want nothing: who knows when it was", c.Counts)
		}
		e.add(1, counters{sample: sample{ok: 6, failed: 4, issued: 8}, timeout: 1, unconnected: 2})
		settle(second)
		c := w.sink.last(api1)
		if want := (outlier.Counts{N: 10, Conn: 2, Timeout: 1, Server: 1}); c.Counts != want {
			t.Errorf("counts %+v, want %+v", c.Counts, want)
		}
		r := w.sink.joined[0]
		if len(w.sink.joined) != 1 || r.ID != "envoy-1" || r.Principal != "10.4.0.1" || r.Zone != "a" || w.Stats().Streams != 1 {
			t.Errorf("joined as %+v", w.sink.joined)
		}
	})
}

func TestARestartedEnvoyIsAnotherIncarnation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, e := newPolled(t)
		settle(10 * second)
		e.set(func(e *oldEnvoy) {
			e.started = time.Now()
			e.hosts = map[int]counters{1: {sample: sample{ok: 5000, failed: 4000, issued: 9000}}} // since then, and more
		})
		settle(5 * second)
		j := w.sink.joined
		if len(j) != 2 || j[1].Incarnation <= j[0].Incarnation || len(w.sink.left) != 1 || w.Stats().Refused[Restarted] != 1 {
			t.Errorf("joined %+v, left %v, refused %v, want a second incarnation", j, w.sink.left, w.Stats().Refused)
		}
		if c := w.sink.last(api1); c.Counts.N != 0 {
			t.Errorf("counts %+v, want none of what began before it was known", c.Counts)
		}
	})
}

func TestAnEnvoyThatSendsLoadReportsIsNotPolledAsWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, e := newPolled(t)
		settle(2 * second)
		w.envoy("10.4.0.1", "envoy-1")
		settle(5 * second)
		told := len(w.sink.reports)
		e.add(1, counters{sample: sample{failed: 50, issued: 50}})
		settle(5 * second)
		if w.Stats().Streams != 1 || len(w.sink.joined) != 2 || len(w.sink.left) != 1 || len(w.sink.reports) != told {
			t.Errorf("%d streams, joined %d times, left %v, %d reports after %d, want its own word alone",
				w.Stats().Streams, len(w.sink.joined), w.sink.left, len(w.sink.reports), told)
		}
		if w.Stats().Refused[ReportsItself] == 0 {
			t.Errorf("refused %v, want it said", w.Stats().Refused)
		}
	})
}

func TestAnEnvoyThatIsNamedTwiceIsOneReporter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, e := newPolled(t, otherAt)
		settle(5 * second)
		e.add(1, counters{sample: sample{ok: 5, issued: 5}})
		settle(5 * second)
		if n := len(w.sink.joined); n > 2 || w.Stats().Streams != 1 || w.sink.last(api1).Counts.N != 5 {
			t.Errorf("joined %d times, %d streams, counts %+v, want one that stays, and 5 attempts", n, w.Stats().Streams, w.sink.last(api1).Counts)
		}
		if w.Stats().Refused[ForeignReporter] == 0 {
			t.Errorf("refused %v, want the other address among it", w.Stats().Refused)
		}
	})
}

func TestAnAdminThatDoesNotAnswerSaysNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		answer func(http.ResponseWriter) bool
		why    Refusal
	}{
		"that is slow":       {func(http.ResponseWriter) bool { time.Sleep(time.Minute); return true }, NoAnswer},
		"of another program": {func(w http.ResponseWriter) bool { _, _ = w.Write([]byte("<html>")); return true }, BadPage},
		"that forbids it":    {func(w http.ResponseWriter) bool { w.WriteHeader(http.StatusForbidden); return true }, NoAnswer},
		"that sends elsewhere": {func(w http.ResponseWriter) bool {
			w.Header().Set("location", "http://10.9.9.9/")
			w.WriteHeader(http.StatusFound)
			return true
		}, NoAnswer},
		"with negative numbers": {func(w http.ResponseWriter) bool {
			_, _ = w.Write([]byte(`{"cluster_statuses": [{"name": "api", "host_statuses": [{"stats": [{"name": "rq_error", "value": "-1"}]}]}]}`))
			return true
		}, BadPage},
		"without an end": {func(w http.ResponseWriter) bool {
			for block := make([]byte, 1<<20); ; {
				if _, err := w.Write(block); err != nil {
					return true
				}
			}
		}, BadPage},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, e := newPolled(t)
				settle(2 * second)
				e.set(func(e *oldEnvoy) { e.answer = tc.answer })
				told := len(w.sink.reports)
				settle(10 * second)
				if len(w.sink.left) != 1 || w.Stats().Refused[tc.why] == 0 || len(w.sink.reports) > told+1 {
					t.Errorf("left %v, refused %v, %d reports after %d, want it gone for %s",
						w.sink.left, w.Stats().Refused, len(w.sink.reports), told, tc.why)
				}
				e.set(func(e *oldEnvoy) { e.answer = nil })
				settle(2 * time.Minute) // the slow one has a queue of questions
				e.add(1, counters{sample: sample{ok: 1, issued: 1}})
				settle(2 * second)
				if c := w.sink.last(api1); c.Counts.N != 1 || len(w.sink.joined) != 2 {
					t.Errorf("afterwards %+v, joined %d times, want it back with what is new", c.Counts, len(w.sink.joined))
				}
			})
		})
	}
}

func TestAnEnvoyWithoutAnIdIsNotHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, e := newPolled(t)
		e.set(func(e *oldEnvoy) { e.node = "" })
		settle(5 * second)
		if w.Stats().Refused[BadNode] == 0 || len(w.sink.joined) > 1 {
			t.Errorf("refused %v, joined %v", w.Stats().Refused, w.sink.joined)
		}
	})
}

// pages is an observer of pages that are a second apart.
type pages struct {
	t *testing.T
	page
	*observer
	now time.Duration
}

func newPages(t *testing.T) *pages {
	o := newObserver(services(3))
	o.logs = new(logged)
	return &pages{t: t, observer: o, now: 100 * second}
}

func (p *pages) show(hosts map[int]counters) merge.Cell {
	p.now += second
	req, failed := p.page.take(clustersOf(hosts), p.now)
	p.logs.kinds = failed
	r, _ := p.observe(req, p.now)
	return cell(r, api1)
}

func TestCountersThatFallAreNoNews(t *testing.T) {
	p := newPages(t)
	p.show(map[int]counters{1: {sample: sample{ok: 100, issued: 104, active: 4}}})
	p.show(map[int]counters{1: {sample: sample{ok: 110, issued: 114, active: 4}}})
	if c := p.show(map[int]counters{1: {sample: sample{ok: 3, failed: 9, issued: 12}}}); c.Counts.N > 10 || p.refused.Counts[BadCounts] != 1 {
		t.Errorf("counts %+v, refused %v, want no more than the 10 of before", c.Counts, p.refused.Counts)
	}
	if c := p.show(map[int]counters{1: {sample: sample{ok: 3, failed: 10, issued: 13}}}); c.Counts != (outlier.Counts{N: 11, Server: 1}) || c.LastHard != never {
		t.Errorf("cell %+v, want one more failure, of no known kind", c)
	}
}

func TestAnEndpointThatIsMissingForAWhileBeginsAnew(t *testing.T) {
	p := newPages(t)
	p.show(map[int]counters{1: {sample: sample{ok: 100, issued: 100}}, 2: {}})
	p.show(map[int]counters{2: {}})
	p.show(map[int]counters{1: {sample: sample{failed: 90, issued: 95, active: 5}}, 2: {}})
	c := p.show(map[int]counters{1: {sample: sample{failed: 95, issued: 95}}, 2: {}})
	if want := (outlier.Counts{N: 5, Server: 5}); c.Counts != want {
		t.Errorf("counts %+v, want %+v: what was under way has failed since it is back", c.Counts, want)
	}
}

func TestAbsurdCountersAreCountedAndLeftOut(t *testing.T) {
	p := newPages(t)
	p.show(map[int]counters{1: {}})
	for _, huge := range []counters{
		{sample: sample{ok: math.MaxUint64}}, {sample: sample{issued: 1 << 40}}, {sample: sample{active: 1 << 50}},
	} {
		if c := p.show(map[int]counters{1: huge}); c.Counts.N != 0 || p.refused.Counts[BadCounts] != 1 {
			t.Errorf("%+v makes %+v, refused %v", huge, c.Counts, p.refused.Counts)
		}
		p.show(map[int]counters{1: {}})
	}
}

func TestConnectionsThatFailAreNoMoreThanRequestsThatFail(t *testing.T) {
	for _, tc := range []struct {
		is   counters
		want kinds
	}{
		{counters{sample: sample{failed: 3}, unconnected: 9, timeout: 9}, kinds{conn: 3}},
		{counters{sample: sample{failed: 3}, unconnected: 1, timeout: 9}, kinds{conn: 1, timeout: 2}},
		{counters{unconnected: 1}, kinds{}},
	} {
		if got := tc.is.kinds(); got != tc.want {
			t.Errorf("%+v are %+v, want %+v", tc.is, got, tc.want)
		}
	}
}

func TestThePollNamesTheAddressThatItCannotUse(t *testing.T) {
	for _, tc := range []struct {
		change func(*Config)
		field  string
	}{
		{func(c *Config) { c.Poll = []string{"127.0.0.1:9901", "127.0.0.1"} }, "poll[1]"},
		{func(c *Config) { c.Poll = []string{":9901"} }, "poll[0]"},
		{func(c *Config) { c.Poll = []string{"http://a:9901"} }, "poll[0]"},
		{func(c *Config) { c.Poll = []string{"a:0"} }, "poll[0]"},
		{func(c *Config) { c.Poll = []string{"a:1", "a:1"} }, "poll[1]"},
		{func(c *Config) { c.Poll = make([]string, mostPolled+1) }, "poll"},
		{func(c *Config) { c.PollInterval = ms(199) }, "poll_interval"},
		{func(c *Config) { c.PollInterval = time.Hour }, "poll_interval"},
	} {
		c := DefaultConfig()
		tc.change(&c)
		field, ok := errors.AsType[interface {
			error
			Field() string
		}](c.Validate())
		if !ok || field.Field() != tc.field {
			t.Errorf("%.3v each %v: error %v, want one of %s", c.Poll, c.PollInterval, field, tc.field)
		}
	}
	c := DefaultConfig()
	c.Poll = []string{"127.0.0.1:9901", "envoy-7:9901", "[::1]:9901"}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}

func FuzzPages(f *testing.F) {
	one := func(n counters) string {
		text, err := protojson.Marshal(clustersOf(map[int]counters{1: n}))
		if err != nil {
			f.Fatal(err)
		}
		return string(text)
	}
	f.Add(one(counters{sample: sample{ok: 1, issued: 1}}) + "\n" + one(counters{sample: sample{ok: 2, failed: 3, issued: 9, active: 4}, unconnected: 1}))
	f.Add(one(counters{sample: sample{ok: 7, issued: 8, active: 1}}) + "\n" + one(counters{}) + "\n" + one(counters{sample: sample{failed: 1}}))
	f.Add(fmt.Sprintf(`{"cluster_statuses": [{"name": "api", "host_statuses": [{"stats": [{"name": "rq_total", "value": "%d"}]}]}]}`, uint64(math.MaxUint64)))
	f.Fuzz(func(t *testing.T, text string) {
		p := newPages(t)
		table := newTable(services(3), 1)
		last := map[merge.Key]merge.Cell{}
		for line := range strings.SplitSeq(text, "\n") {
			clusters := new(adminv3.Clusters)
			if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(line), clusters) != nil {
				continue
			}
			p.now += second
			req, failed := p.page.take(clusters, p.now)
			p.logs.kinds = failed
			r, ok := p.observe(req, p.now)
			if !ok {
				continue
			}
			for _, c := range r.Cells {
				if d := c.Counts.Sub(last[c.Key].Counts); d.K() > d.N || d.N > 1<<31 || c.LastHardStart > c.LastHard || c.LastHard > p.now {
					t.Fatalf("%+v after %+v, at %v", c, last[c.Key], p.now)
				}
				last[c.Key] = c
			}
			r.Reporter, r.Incarnation = "envoy-0", 1
			if done := table.Apply(r, p.now); done.Refused[merge.BadCounts]+done.Refused[merge.Backwards]+done.Refused[merge.OldReport] > 0 {
				t.Fatalf("the table refuses %v", done.Refused)
			}
		}
	})
}
