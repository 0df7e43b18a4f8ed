package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/overhear-mesh/overhear/test/fakeupstream"
)

// setting is how much there is of everything, the same for all products.
type setting struct {
	Proxies   int           `json:"proxies"`
	Endpoints int           `json:"endpoints"`
	Rate      float64       `json:"rate"`       // requests a second, of all callers together
	Timeout   time.Duration `json:"timeout_ns"` // of a request
	Latency   time.Duration `json:"latency_ns"` // of a healthy endpoint
	Base      float64       `json:"base"`       // share of requests that every endpoint fails
	Retries   bool          `json:"retries"`
	HTTP2     bool          `json:"http2,omitempty"`   // between proxies and endpoints
	RPC       bool          `json:"grpc,omitempty"`    // users speak gRPC, to their proxies too
	Hold      time.Duration `json:"hold_ns,omitempty"` // latency of a user's request, if not that of a healthy endpoint
	Warm      time.Duration `json:"warm_ns"`           // before the fault
	Phase     time.Duration `json:"phase_ns"`          // the fault comes at any instant of this, after the warm-up
	Fault     time.Duration `json:"fault_ns"`
	After     time.Duration `json:"after_ns"` // once it is over
}

// fair is how many requests a second one caller sends to one endpoint.
func (t setting) fair() float64 { return t.Rate / float64(t.Proxies*t.Endpoints) }

// healthy is for how long a run is well. Products sweep, by clocks that begin as they
// start: after the same time in every run a fault would always meet the same point of these,
// and a sweep just before it costs one that looks every five seconds all five.
func (t setting) healthy() time.Duration {
	if t.Phase <= 0 {
		return t.Warm
	}
	return t.Warm + rand.N(t.Phase)
}

// scenario is one thing that goes wrong.
type scenario struct {
	name, about string
	fault       fakeupstream.Fault
	// cut is what the network does to the way to the bad endpoints.
	cut cut
	// overload is how many times its capacity each bad endpoint is asked for, if all get the
	// same; 0: it has no bounds.
	overload float64
	// bad is how many endpoints have the fault, the first ones; everyone: -1.
	bad int
	// blame is whether the endpoints that have the fault are to be left; false: whoever
	// leaves one does harm.
	blame bool
	// canary is that the bad endpoints are of another version than the rest.
	canary bool
	// hopeless is that nobody can be served while the fault lasts: what begins then is not
	// judged, but how soon all are served again.
	hopeless bool
	// reused is that the bad endpoint is gone for three seconds, and another process serves at
	// its address then, which Overhear's control plane is told.
	reused bool
	// callers is how many callers' requests the fault takes, the first ones; everyone's: -1;
	// those of one zone: -2.
	callers int
	// rolling is that every endpoint is down once, in turn; see restarts. drains is that each
	// says so before.
	rolling, drains bool
	// poison is the share of requests that go by a route which fails everywhere.
	poison float64
	// aborts is the share of the users who give up after half of the usual latency, during the
	// fault.
	aborts float64
	// impatient users give up after a third of the time-out.
	impatient bool
	// silence is for how long nobody asks anything, and lead how long before its end the fault
	// comes. Times count from this end.
	silence, lead time.Duration
	// streams is how many requests are to be under way on the connection of each caller to
	// each endpoint, over HTTP/2; 0: as many as come about, over HTTP/1.1.
	streams int
	// rpc is that users speak gRPC, over HTTP/2 all the way, and learn of errors in trailers.
	rpc bool
	// mute is that a call of gRPC fails without a message, by trailers alone.
	mute bool
	// unseen is that what is sent to a bad endpoint does not reach it: failed requests tell
	// instead.
	unseen bool
	// lasts takes the place of the setting's length of the fault, if it is above 0.
	lasts time.Duration
	// headless is that Overhear's control plane is killed as the fault comes.
	headless bool
}

const (
	everyone = -1
	oneZone  = -2
)

// callersOfZone is how many callers are in a zone: two of five.
func callersOfZone(callers int) int { return max(1, callers*2/5) }

// endpointsOfZone is how many endpoints are, so that "three crash" takes a zone.
const endpointsOfZone = 3

// takes says whether the fault is one of this endpoint.
func (s scenario) takes(backend int) bool { return s.bad == everyone || backend < s.bad }

// restart is what becomes of one endpoint in the course of a rolling one.
type restart struct {
	after   time.Duration // since the first began
	backend int
	fault   fakeupstream.Fault
}

// restarts are spread over the time of the fault, in order. Each endpoint is down for a second,
// or for half its turn; who drains does so in the other half.
func (s scenario) restarts(t setting) (all []restart) {
	turn := t.Fault / time.Duration(t.Endpoints)
	down := fakeupstream.Crash()
	if s.drains {
		down = fakeupstream.Drain() // what is under way is answered
		down.Deaf = true
	}
	for i := range t.Endpoints {
		from := time.Duration(i) * turn
		if s.drains {
			all = append(all, restart{from, i, fakeupstream.Drain()})
		}
		all = append(all, restart{from + turn/2, i, down}, restart{from + turn/2 + min(time.Second, turn/2), i, fakeupstream.Fault{}})
	}
	return all
}

// among is the scenario with so many callers.
func (s scenario) among(callers int) scenario {
	if s.callers == oneZone {
		s.callers = callersOfZone(callers)
	}
	return s
}

// hits says whether the fault takes requests of this caller.
func (s scenario) hits(proxy int) bool { return s.callers == everyone || proxy < s.callers }

// in is the setting in which a scenario takes place.
func (s scenario) in(t setting) setting {
	if s.reused {
		whole := t.Fault
		t.Fault = min(whole, 3*time.Second)
		t.After += whole - t.Fault
	}
	if s.rpc {
		t.HTTP2, t.RPC = true, true
	}
	if s.lasts > 0 {
		t.Fault = s.lasts
	}
	if s.streams == 0 {
		return t
	}
	// As many are under way as come while one is answered. Endpoints are few, so that this is
	// not long; of less than ten, Envoy's default of 10 % would eject none.
	t.HTTP2, t.Endpoints = true, min(t.Endpoints, 10)
	t.Hold = time.Duration(float64(s.streams) / t.fair() * float64(time.Second))
	t.Timeout = max(t.Timeout, 4*t.Hold)
	return t
}

// usual is what a setting adds to endpoints in health.
func (t setting) usual(f fakeupstream.Fault) fakeupstream.Fault {
	f.ErrorRate = max(f.ErrorRate, t.Base)
	if t.Hold > 0 {
		f.Slow, f.Path = t.Hold.Seconds()/max(t.Latency, time.Millisecond).Seconds(), "/work/" // checks are answered at once
	}
	return f
}

// served is how many requests an overloaded endpoint works at, at once.
const served = 4

// faultAt is the backends' fault in a setting.
func (s scenario) faultAt(t setting) fakeupstream.Fault {
	if s.overload == 0 {
		return s.fault
	}
	// It answers rate requests a second, and lets wait what that takes half of the time-out.
	rate := t.Rate / float64(t.Endpoints) / s.overload
	slow := served / rate / max(t.Latency, time.Millisecond).Seconds()
	return fakeupstream.Overload(served, max(1, int(rate*t.Timeout.Seconds()/2)), slow)
}

// The paths of requests say by which proxy they come, which backends note.
func path(proxy int, poisoned bool) string {
	if poisoned {
		return fmt.Sprintf("/poison/%d/", proxy)
	}
	return fmt.Sprintf("/work/%d/", proxy)
}

// proxyOf is the inverse of path.
func proxyOf(path string) (proxy int, ok bool) {
	for _, form := range []string{"/work/%d/", "/poison/%d/"} {
		if _, err := fmt.Sscanf(path, form, &proxy); err == nil {
			return proxy, true
		}
	}
	return 0, false
}

// Endpoints are named by their number.
func nameOf(backend int) string { return fmt.Sprintf("api-%d", backend) }

// backendOf is the inverse of nameOf.
func backendOf(name string) int {
	backend := nobody
	if _, err := fmt.Sscanf(name, "api-%d", &backend); err != nil {
		return nobody
	}
	return backend
}

func scenarios() []scenario {
	ofFirst := func(f fakeupstream.Fault) fakeupstream.Fault {
		f.Path = path(0, false)
		return f
	}
	sparing := func(f fakeupstream.Fault) fakeupstream.Fault { f.SparePings = true; return f }
	poisoned := fakeupstream.Errors(1)
	poisoned.Path = "/poison/"
	one := func(name, about string, f fakeupstream.Fault) scenario {
		return scenario{name: name, about: about, fault: f, bad: 1, blame: true, callers: everyone}
	}
	crash := one("crash", "listener closed, connections reset", fakeupstream.Crash())
	crash.unseen = true
	zone := crash
	zone.name, zone.about, zone.bad = "three crash", "three endpoints at once, as when a zone is lost", 3
	all := crash
	all.name, all.about, all.bad, all.hopeless = "all crash", "every endpoint at once: there is nowhere to go, until they are back", everyone, true
	reused := crash
	reused.name, reused.about, reused.reused = "address reused", "a crash, and after 3 s another process serves at the address", true
	canary := one("canary", "half of the requests to three endpoints of a new version fail, checks succeed", fakeupstream.Errors(.5))
	canary.bad, canary.canary = 3, true
	limited := fakeupstream.Errors(.3)
	limited.Status, limited.Header = http.StatusTooManyRequests, http.Header{"Retry-After": {"1"}}
	dark := one("blackhole", "the machine is gone: SYNs are not answered, open connections are silent", fakeupstream.Fault{})
	dark.cut, dark.unseen = cut{answers: true, requests: true, dark: true}, true
	trailers := one("trailers 50 %", "half of the calls of gRPC fail: 200, an empty message, and a status in the trailers; checks succeed", fakeupstream.Errors(.5))
	trailers.rpc = true
	mute := trailers
	mute.name, mute.about, mute.mute = "trailers only 50 %", "half of the calls of gRPC fail: 200, and a status in the only block of headers; checks succeed", true
	impatient := one("hang, impatient users", "requests are never answered, checks are, and users give up after a third of the time-out", sparing(fakeupstream.Hang()))
	impatient.impatient = true
	idle := func(s scenario, about string) scenario {
		s.name, s.about, s.silence, s.lead = "idle "+s.name, about, 8*time.Second, 5*time.Second
		return s
	}
	headless := crash
	headless.name, headless.about, headless.headless = "crash, no control plane", "a crash at the moment in which Overhear's control plane is killed", true
	return []scenario{
		crash, headless, zone, all, reused, dark,
		idle(crash, "a crash, and nobody asks anything from 3 s before it to 5 s after it"),
		idle(dark, "a blackhole, and nobody asks anything from 3 s before it to 5 s after it"),
		one("hang", "accepts and never answers, checks neither", fakeupstream.Hang()),
		one("hang, checks answered", "requests are never answered, checks are", sparing(fakeupstream.Hang())),
		impatient,
		one("errors 50 %", "half of the requests fail, checks succeed", fakeupstream.Errors(.5)),
		one("errors 20 %", "a fifth of the requests fail, checks succeed", fakeupstream.Errors(.2)),
		one("errors 5 %", "a twentieth of the requests fail, checks succeed", fakeupstream.Errors(.05)),
		canary,
		trailers, mute,
		one("slow x10", "ten times the latency", fakeupstream.Slow(10)),
		one("slow tail", "a tenth of the requests takes thirty times as long", fakeupstream.SlowTail(.1, 30)),
		one("body stalls", "200, half of the body, then nothing", sparing(fakeupstream.Fault{Body: fakeupstream.Stalled})),
		one("body cut", "200, half of the body, then a reset", sparing(fakeupstream.Fault{Body: fakeupstream.Cut})),
		one("flap", "half of the requests fail for 2 s, then none for 2 s", fakeupstream.Flap(fakeupstream.Errors(.5), 2*time.Second, 2*time.Second)),
		{name: "listener only", about: "listener closed, open connections serve on", fault: fakeupstream.Deaf(), bad: 1, callers: everyone},
		{name: "streams reset", about: "one endpoint resets its connections once, with 50 streams of HTTP/2 on each, and serves on", fault: fakeupstream.Reset(), bad: 1, callers: everyone, streams: 50},
		{name: "pauses", about: "one endpoint stands still for 200 ms each 3 s, as while garbage is collected", fault: fakeupstream.Pauses(3*time.Second, 200*time.Millisecond), bad: 1, callers: everyone},
		{name: "long pauses", about: "one endpoint stands still for 800 ms each 4 s", fault: fakeupstream.Pauses(4*time.Second, 800*time.Millisecond), bad: 1, callers: everyone},
		{name: "rolling restart", about: "each endpoint in turn is killed, and back after a second", rolling: true, bad: everyone, callers: everyone},
		{name: "rolling restart, drained", about: "each endpoint in turn fails its checks and closes its connections in peace, is down for a second, and back", rolling: true, drains: true, bad: everyone, callers: everyone},
		{name: "all at 30 %", about: "every endpoint fails 30 %: there is nowhere to go", fault: fakeupstream.Errors(.3), bad: everyone, callers: everyone},
		{name: "429 at 30 %", about: "every endpoint answers 429 to 30 %, as a limit of rates does: nobody is sick", fault: limited, bad: everyone, callers: everyone},
		{name: "broken caller", about: "all that one caller sends is answered by a reset; the others are well", fault: ofFirst(fakeupstream.Fault{Body: fakeupstream.Cut}), bad: everyone, callers: 1},
		{name: "broken link", about: "one caller's requests to one endpoint hang; nobody else's", fault: ofFirst(fakeupstream.Hang()), bad: 1, blame: true, callers: 1},
		{name: "partition", about: "one caller's requests reach one endpoint, and the answers are held back; nobody else's", cut: cut{answers: true}, bad: 1, blame: true, callers: 1},
		{name: "zone partition", about: "the requests of one zone's callers, two of five, reach three endpoints, and the answers are held back; nobody else's", cut: cut{answers: true}, bad: 3, blame: true, callers: oneZone},
		{name: "overload", about: "every endpoint gets 1.2 times what it can serve, and answers 503 to what cannot wait: there is nowhere to go", overload: 1.2, bad: everyone, callers: everyone},
		{name: "poison route", about: "one request in twenty goes by a route that fails everywhere", fault: poisoned, bad: everyone, callers: everyone, poison: .05},
		{name: "client aborts", about: "a third of the users give up after half of the usual latency: nobody is sick", callers: everyone, aborts: 1. / 3},
		{name: "health", about: "nothing goes wrong", callers: everyone},
	}
}

// blames says whether a caller ought to leave an endpoint.
func (s scenario) blames(proxy, backend int) bool {
	return s.blame && s.takes(backend) && s.hits(proxy)
}

// elsewhere says whether an answer came from an endpoint that its caller does right to use: a
// failure in it is one of the base rate.
func (s scenario) elsewhere(r request) bool {
	return r.backend != nobody && !s.blames(r.proxy, r.backend)
}

// doomed requests fail whatever their proxy does.
func (s scenario) doomed(r request) bool {
	return r.doomed || s.bad == everyone && s.callers != everyone && s.hits(r.proxy)
}
