package server_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/overhear-mesh/overhear/xds/resource"
	"github.com/overhear-mesh/overhear/xds/server"
)

// variant is one of the four transports of xDS.
type variant struct{ delta, ads bool }

func (v variant) String() string {
	return map[bool]string{false: "SotW", true: "delta"}[v.delta] + map[bool]string{false: " per type", true: " ADS"}[v.ads]
}

var variants = []variant{{false, true}, {false, false}, {true, true}, {true, false}}

// scenario is a course of events that a management server must get right, whatever the
// transport and the type.
type scenario struct {
	name  string
	types []string
	only  func(variant) bool // nil: all
	play  func(p *play)
}

var (
	allTypes   = []string{cds, eds, lds, rds}
	wholeTypes = []string{cds, lds} // those that have a wildcard
)

func onlyDelta(v variant) bool { return v.delta }
func onlySotw(v variant) bool  { return !v.delta }
func onlySotW(v variant) bool  { return !v.delta }
func onlyADS(v variant) bool   { return v.ads }

// play is a scenario under way: one client, what it wants, and what the server has.
type play struct {
	*harness
	variant
	url    string
	c      *stream
	there  map[string]int // generations, by name
	wants  map[string]bool
	all    bool // a wildcard
	nonces map[string]bool
}

// resourceOf makes a resource of any type that is served.
func resourceOf(url, name string, generation int) server.Change {
	switch url {
	case cds:
		return cluster(name, generation)
	case eds:
		return assignment(name, generation)
	case lds:
		l := resource.Listener{Name: name, Address: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(generation)), Route: "r"}
		return server.Change{View: envoyView, TypeURL: lds, Name: name, Message: resource.EncodeListener(l, resource.Envoy)}
	default:
		r := resource.Route{Name: name, Hosts: []resource.VirtualHost{{Name: "all", Domains: []string{"*"}, Cluster: fmt.Sprint("c", generation)}}}
		return server.Change{View: envoyView, TypeURL: rds, Name: name, Message: resource.EncodeRoute(r, resource.Envoy)}
	}
}

// put sets resources to a generation.
func (p *play) put(generation int, names ...string) {
	p.t.Helper()
	var changes []server.Change
	for _, name := range names {
		changes = append(changes, resourceOf(p.url, name, generation))
		p.there[name] = generation
	}
	p.apply(changes...)
}

func (p *play) remove(name string) {
	p.t.Helper()
	delete(p.there, name)
	p.apply(without(resourceOf(p.url, name, 1)))
}

// connect is a new stream of a client that wants nothing yet.
func (p *play) connect() {
	p.t.Helper()
	if p.c != nil {
		p.c.close()
	}
	url := p.url
	if p.ads {
		url = ""
	}
	p.c = p.openType(node("n", envoyView), p.delta, url)
	p.wants, p.all, p.nonces = map[string]bool{}, false, map[string]bool{}
}

func (p *play) want(names []string) {
	for _, name := range names {
		p.all = p.all || name == "*"
		p.wants[name] = true
	}
}

func (p *play) subscribe(names ...string) {
	p.t.Helper()
	p.want(names)
	p.c.subscribe(p.url, names...)
}

func (p *play) unsubscribe(name string) {
	p.t.Helper()
	delete(p.wants, name)
	p.all = p.all && name != "*"
	p.c.unsubscribe(p.url, name)
}

// subscribeToAllSilently is the wildcard of before there was a word for it: a first
// request without names.
func (p *play) subscribeToAllSilently() {
	p.t.Helper()
	p.all = true
	if p.delta {
		p.c.sendDelta(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: p.url})
	} else {
		p.c.sendSotw(&discoveryv3.DiscoveryRequest{TypeUrl: p.url})
	}
}

func (p *play) whole() bool { return slices.Contains(wholeTypes, p.url) }

// expected is how the variant tells of names that have changed; "" if it cannot.
func (p *play) expected(changed []string) string {
	var names, gone []string
	for _, name := range changed {
		if p.there[name] > 0 {
			names = append(names, name)
		} else {
			gone = append(gone, "-"+name)
		}
	}
	switch {
	case p.delta:
		slices.Sort(names)
		slices.Sort(gone)
		names = append(names, gone...)
	case p.whole(): // what is missing is gone
		names = nil
		for name := range p.there {
			if p.all || p.wants[name] {
				names = append(names, name)
			}
		}
		slices.Sort(names)
	case len(names) == 0:
		return "" // state of the world has no word for it in these types
	default:
		slices.Sort(names)
	}
	return fmt.Sprintf("%s[%s]", short(p.url), strings.Join(names, " "))
}

// hear takes the one response that tells of these names, without an answer to it.
func (p *play) hear(changed ...string) answer {
	p.t.Helper()
	want := p.expected(changed)
	if want == "" {
		p.quiet()
		return answer{}
	}
	a := p.c.next()
	if got := a.names(); got != want {
		p.t.Fatalf("got %s, want %s", got, want)
	}
	if a.nonce == "" || p.nonces[a.nonce] {
		p.t.Errorf("nonce %q is empty or was there before", a.nonce)
	}
	p.nonces[a.nonce] = true
	if a.version == "" {
		p.t.Error("the response has no version")
	}
	for name, r := range a.resources {
		if want := packed(p.t, resourceOf(p.url, name, p.there[name])); string(r.GetValue()) != want {
			p.t.Errorf("%s is not generation %d", name, p.there[name])
		}
		if p.delta && a.versions[name] == "" {
			p.t.Errorf("%s has no version", name)
		}
	}
	return a
}

// told is hear with an ACK, after which there is nothing more.
func (p *play) told(changed ...string) answer {
	p.t.Helper()
	a := p.hear(changed...)
	if a.nonce != "" {
		p.c.ack(a)
	}
	p.quiet()
	return a
}

func (p *play) quiet() {
	p.t.Helper()
	p.c.quiet("nothing is due")
}

// scenarios are those of the public suite for management servers (ii/xds-test-harness),
// in its words where it has them, and one for each further rule in "xDS REST and gRPC
// protocol" of Envoy's documentation.
var scenarios = []scenario{
	// subscribing.feature
	{name: "send all resources on a wildcard request", types: wholeTypes, play: func(p *play) {
		p.put(1, "A", "B", "C")
		p.subscribe("*")
		p.told("A", "B", "C")
	}},
	{name: "send all resources on an implicit wildcard request", types: wholeTypes, play: func(p *play) {
		p.put(1, "A", "B", "C")
		p.subscribeToAllSilently()
		p.told("A", "B", "C")
	}},
	{name: "a wildcard receives updates", types: wholeTypes, play: func(p *play) {
		p.put(1, "A", "B", "C")
		p.subscribe("*")
		before := p.told("A", "B", "C")
		p.put(2, "A")
		if after := p.told("A"); after.version == before.version {
			p.t.Errorf("the version is %s before and after", after.version)
		}
	}},
	{name: "a wildcard receives what is added", types: wholeTypes, play: func(p *play) {
		p.put(1, "A", "B", "C")
		p.subscribe("*")
		p.told("A", "B", "C")
		p.put(2, "D")
		p.told("D")
	}},
	{name: "an implicit wildcard receives what is added", types: wholeTypes, play: func(p *play) {
		p.put(1, "A")
		p.subscribeToAllSilently()
		p.told("A")
		p.put(2, "B")
		p.told("B")
	}},
	{name: "specific resources are sent and no others", types: allTypes, play: func(p *play) {
		p.put(1, "A", "B", "C", "D")
		p.subscribe("B", "D")
		p.told("B", "D")
	}},
	{name: "specific resources are sent when they change", types: allTypes, play: func(p *play) {
		p.put(1, "A", "B", "C", "D")
		p.subscribe("B", "D")
		p.told("B", "D")
		p.put(2, "B")
		p.told("B")
		p.put(2, "A")
		p.quiet()
	}},
	{name: "a resource that does not exist is sent when it is created", types: allTypes, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribe("A", "Z")
		p.told("A", "Z")
		p.put(2, "Z")
		p.told("Z")
	}},
	{name: "several types on one stream", types: allTypes, only: onlyADS, play: func(p *play) {
		first := p.url
		second := map[string]string{cds: lds, lds: cds, eds: rds, rds: eds}[first]
		at := func(url string) { p.url = url }
		p.put(1, "A", "B", "C")
		at(second)
		p.put(1, "A", "B", "C")
		at(first)
		p.subscribe("B")
		p.told("B")
		at(second)
		p.subscribe("B")
		p.told("B")
		at(first)
		p.put(2, "B")
		p.told("B")
		at(second)
		p.put(2, "B")
		p.told("B")
	}},
	// unsubscribing.feature
	{name: "unsubscribe from some resources", types: allTypes, play: func(p *play) {
		p.put(1, "A", "B", "C", "D")
		p.subscribe("A", "B", "C")
		p.told("A", "B", "C")
		p.unsubscribe("B")
		p.unsubscribe("C")
		p.hearLess()
		p.put(2, "A")
		p.told("A")
		p.put(2, "B", "C")
		p.quiet()
	}},
	{name: "unsubscribe from all resources", types: allTypes, play: func(p *play) {
		p.put(1, "A", "B", "C")
		p.subscribe("A", "B")
		p.told("A", "B")
		p.unsubscribe("A")
		p.unsubscribe("B")
		p.hearLess()
		p.put(2, "A", "B", "C")
		p.quiet()
	}},
	// delta.feature
	{name: "subscribe to resources one after the other", types: allTypes, play: func(p *play) {
		p.put(1, "A", "B", "C")
		p.subscribe("A")
		p.told("A")
		p.subscribe("B")
		p.told("B")
	}},
	{name: "only what is updated has a new version", types: allTypes, only: onlyDelta, play: func(p *play) {
		p.put(1, "A", "B", "C")
		p.subscribe("A", "B", "C")
		before := p.told("A", "B", "C")
		p.put(2, "A")
		after := p.told("A")
		if after.versions["A"] == before.versions["A"] {
			p.t.Errorf("A has version %s before and after", after.versions["A"])
		}
	}},
	{name: "a removed resource is told, and told when it is back", types: allTypes, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribe("A", "B")
		p.told("A", "B")
		p.remove("B")
		p.told("B")
		p.put(2, "B")
		p.told("B")
	}},
	{name: "a wildcard is told of a removal", types: wholeTypes, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribe("*")
		p.told("A", "B")
		p.remove("B")
		p.told("B")
		p.remove("A")
		p.told("A")
	}},
	// xDS protocol: ACK, NACK and resource type instance version
	{name: "an ACK is not answered", types: allTypes, play: func(p *play) {
		p.put(1, "A")
		p.subscribe("A")
		a := p.hear("A")
		p.c.ack(a)
		p.quiet()
	}},
	{name: "a NACK is not answered with the same, and the next update is sent", types: allTypes, play: func(p *play) {
		p.put(1, "A")
		p.subscribe("A")
		p.told("A")
		p.put(2, "A")
		p.c.nack(p.hear("A"), "no")
		p.quiet()
		p.put(3, "A")
		p.told("A")
	}},
	{name: "a NACK of the first response leaves the subscription", types: allTypes, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribe("A")
		p.c.nack(p.hear("A"), "no")
		p.quiet()
		p.subscribe("B")
		p.told("B")
		p.put(2, "A")
		p.told("A")
	}},
	{name: "a stale nonce is not answered", types: allTypes, only: onlySotW, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribe("A")
		first := p.told("A")
		p.put(2, "A")
		second := p.hear("A")
		p.c.sendSotw(&discoveryv3.DiscoveryRequest{TypeUrl: p.url, ResourceNames: []string{"A", "B"}, VersionInfo: first.version, ResponseNonce: first.nonce})
		p.quiet()
		p.c.ack(second)
		p.quiet()
	}},
	{name: "what changes before an ACK comes after it, once", types: allTypes, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribe("A", "B")
		first := p.hear("A", "B")
		p.put(2, "A")
		p.put(3, "A")
		p.quiet()
		p.c.ack(first)
		p.told("A")
	}},
	{name: "the node need be told only once", types: allTypes, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribe("A")
		p.told("A")
		p.c.node = node("n", envoyView) // and may be told again
		p.subscribe("B")
		p.told("B")
	}},
	// xDS protocol: how the client specifies what resources to return
	{name: "an explicit wildcard beside a name", types: wholeTypes, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribe("*", "A")
		p.told("A", "B")
		p.put(2, "B")
		p.told("B")
		p.unsubscribe("*")
		p.hearLess()
		p.put(3, "B")
		p.quiet()
		p.put(3, "A")
		p.told("A")
	}},
	{name: "names after an implicit wildcard end it in state of the world", types: wholeTypes, only: onlySotW, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribeToAllSilently()
		p.told("A", "B")
		p.all = false
		p.subscribe("A")
		p.hearLess()
		p.put(2, "B")
		p.quiet()
		p.put(2, "A")
		p.told("A")
	}},
	{name: "no names after names are no wildcard", types: wholeTypes, only: onlySotW, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribe("A")
		p.told("A")
		p.unsubscribe("A")
		p.hearLess()
		p.put(2, "A", "B")
		p.quiet()
	}},
	{name: "names after an implicit wildcard leave it in delta", types: wholeTypes, only: onlyDelta, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribeToAllSilently()
		p.told("A", "B")
		p.subscribe("A")
		p.told("A")
		p.put(2, "B")
		p.told("B")
	}},
	{name: "an implicit wildcard is taken back by its name", types: wholeTypes, only: onlyDelta, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribeToAllSilently()
		p.told("A", "B")
		p.unsubscribe("*")
		p.put(2, "A", "B")
		p.quiet()
	}},
	{name: "a name taken back under a wildcard is told once more", types: wholeTypes, only: onlyDelta, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribe("*", "A")
		p.told("A", "B")
		p.unsubscribe("A")
		p.told("A")
		p.put(2, "A")
		p.told("A")
	}},
	{name: "a wildcard in endpoints and routes is nothing", types: []string{eds, rds}, play: func(p *play) {
		p.put(1, "A")
		p.subscribeToAllSilently()
		p.quiet()
		p.all = false
		p.subscribe("A")
		p.told("A")
	}},
	{name: "a wildcard over nothing is answered", types: wholeTypes, play: func(p *play) {
		p.subscribe("*")
		p.told()
		p.put(1, "A")
		p.told("A")
	}},
	// xDS protocol: knowing when a requested resource does not exist
	{name: "delta says what does not exist", types: allTypes, only: onlyDelta, play: func(p *play) {
		p.subscribe("Z")
		p.told("Z")
		p.put(1, "Z")
		p.told("Z")
		p.remove("Z")
		p.told("Z")
	}},
	{name: "state of the world waits for what does not exist", types: allTypes, only: onlySotW, play: func(p *play) {
		p.subscribe("Z")
		p.quiet()
		p.put(1, "Z")
		p.told("Z")
	}},
	// xDS protocol: unsubscribing from resources
	{name: "who subscribes again is sent again", types: allTypes, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribe("A", "B")
		p.told("A", "B")
		p.unsubscribe("A")
		p.hearLess()
		p.subscribe("A")
		p.told("A")
	}},
	{name: "who subscribes twice in delta is sent twice", types: allTypes, only: onlyDelta, play: func(p *play) {
		p.put(1, "A")
		p.subscribe("A")
		p.told("A")
		p.subscribe("A")
		p.told("A")
	}},
	{name: "who takes back what it never asked for is not answered", types: allTypes, only: onlyDelta, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribe("A")
		p.told("A")
		p.unsubscribe("B")
		p.unsubscribe("nobody")
		p.quiet()
	}},
	// xDS protocol: reconnects; incremental xDS: initial_resource_versions
	{name: "a reconnect with the versions of now is sent nothing, if they are those of each", types: allTypes, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribe("A", "B")
		held := p.told("A", "B")
		p.connect()
		p.resume(held, "A", "B")
		if !p.delta { // it may have dropped a name meanwhile, and taken it up again
			p.told("A", "B")
		}
		p.quiet()
		p.put(2, "B")
		p.told("B")
	}},
	{name: "a wildcard that reconnects with the version of now is sent nothing", types: wholeTypes, only: onlySotw, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribe("*")
		held := p.told("A", "B")
		p.connect()
		p.resume(held, "*")
		p.quiet()
	}},
	{name: "a name that was dropped and comes back on a reconnect is sent", types: allTypes, only: onlySotw, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribe("A", "B")
		held := p.told("A", "B")
		p.unsubscribe("B")
		p.hearLess()
		p.connect()
		p.resume(held, "A", "B")
		p.told("A", "B")
	}},
	{name: "a reconnect with old versions is sent what differs", types: allTypes, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribe("A", "B")
		held := p.told("A", "B")
		p.connect()
		p.put(2, "B")
		p.resume(held, "A", "B")
		if p.delta {
			p.told("B")
		} else {
			p.told("A", "B") // one version stands for all
		}
	}},
	{name: "a wildcard that reconnects is told what went meanwhile", types: wholeTypes, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribe("*")
		held := p.told("A", "B")
		p.connect()
		p.remove("B")
		p.resume(held, "*")
		p.told("B")
	}},
	{name: "a name that went meanwhile is told on a reconnect", types: allTypes, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribe("A", "B")
		held := p.told("A", "B")
		p.connect()
		p.remove("B")
		p.resume(held, "A", "B")
		if p.delta {
			p.told("B")
		} else {
			p.told("A", "B")
		}
	}},
	{name: "a reconnect without versions is sent everything", types: allTypes, play: func(p *play) {
		p.put(1, "A", "B")
		p.subscribe("A", "B")
		p.told("A", "B")
		p.connect()
		p.subscribe("A", "B")
		p.told("A", "B")
	}},
	{name: "a nonce of another stream is no answer", types: allTypes, play: func(p *play) {
		p.put(1, "A")
		p.subscribe("A")
		held := p.told("A")
		p.connect()
		p.want([]string{"A"})
		if p.delta {
			p.c.sendDelta(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: p.url, ResourceNamesSubscribe: []string{"A"}, ResponseNonce: held.nonce})
		} else {
			p.c.names[p.url] = []string{"A"}
			p.c.sendSotw(&discoveryv3.DiscoveryRequest{TypeUrl: p.url, ResourceNames: []string{"A"}, ResponseNonce: held.nonce})
		}
		p.told("A")
	}},
	// Incremental xDS: time to live
	{name: "nothing expires", types: allTypes, play: func(p *play) {
		p.put(1, "A")
		p.subscribe("A")
		p.told("A") // the harness refuses a time to live
		time.Sleep(time.Hour)
		synctest.Wait()
		p.quiet()
	}},
}

// hearLess takes what a client may be told when it wants less: a whole type in state of
// the world is told anew without it, or not at all.
func (p *play) hearLess() {
	p.t.Helper()
	for {
		select {
		case a := <-p.c.got:
			if p.delta || !p.whole() {
				p.t.Fatalf("got %s for wanting less", a.names())
			}
			p.c.ack(a)
		default:
			return
		}
	}
}

// resume is the first request of a client that holds what another stream brought.
func (p *play) resume(held answer, names ...string) {
	p.t.Helper()
	p.want(names)
	p.c.resume(held, names...)
}

func TestAManagementServersScenarios(t *testing.T) {
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			for _, s := range scenarios {
				if s.only != nil && !s.only(v) {
					continue
				}
				t.Run(s.name, func(t *testing.T) {
					for _, url := range s.types {
						t.Run(short(url), func(t *testing.T) {
							bubble(t, func(t *testing.T, h *harness) {
								h.Ready()
								p := &play{harness: h, variant: v, url: url, there: map[string]int{}}
								p.connect()
								s.play(p)
								p.quiet()
							})
						})
					}
				})
			}
		})
	}
}
