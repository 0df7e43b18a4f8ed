package server

import (
	"cmp"
	"hash/maphash"
	"slices"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"

	"github.com/overhear-mesh/overhear/xds/resource"
)

// wildcard among the names of a request asks for everything.
const wildcard = "*"

// worldAsked takes over what a client of state of the world subscribes to, and sends what
// there is to say.
func (s *Server) worldAsked(st *stream, r *discoveryv3.DiscoveryRequest) error {
	said := request{node: r.GetNode(), url: cmp.Or(r.GetTypeUrl(), st.url), nonce: r.GetResponseNonce(), refusal: r.GetErrorDetail()}
	asked := digest(r.GetResourceNames())
	s.mu.Lock()
	refused, err := s.worldAskedLocked(st, said, asked, r)
	s.mu.Unlock()
	s.tell(st, refused, said)
	return err
}

func (s *Server) worldAskedLocked(st *stream, said request, asked uint64, r *discoveryv3.DiscoveryRequest) (*batch, error) {
	again := st.asksAgain(said)
	sub, first, refused, err := s.begin(st, said)
	if sub == nil {
		return refused, err
	}
	if again = again && sub.wants(r.GetResourceNames()); again {
		sub.sendAgain()
	}
	if sub.nonce != "" && said.nonce != sub.nonce {
		if !again {
			s.ignored[StaleNonce]++
		}
		return refused, nil // overtaken: the client has more to say when it has the last response
	}
	if first || asked != sub.asked {
		if err := s.check(said.url, r.GetResourceNames()); err != nil {
			return refused, err
		}
		if err := s.unknown.within(st.address, s.cfg.MaxUnknown, func() { sub.subscribe(r.GetResourceNames()) }); err != nil {
			return refused, err
		}
		sub.asked, sub.claims = asked, claims{}
	}
	if first {
		sub.claims.version = r.GetVersionInfo()
	}
	if s.ready {
		sub.resume()
	}
	sub.armed = true
	s.flush(st)
	return refused, nil
}

// asksAgain says that a request of state of the world answers nothing: the client has answered
// that response before. If it names what it named before, it is an Envoy that has its clusters
// from another control plane, and was told of one that changed. That one gets a subscription
// of its own beside the old cluster's, and waits for endpoints that come after it. Of clusters
// from here it is known which changed (see [stream.repeat]).
func (st *stream) asksAgain(r request) bool {
	sub := st.subs[endpoints]
	return sub != nil && r.url == typeURLs[endpoints] && r.refusal == nil && r.nonce != "" && r.nonce == sub.heard &&
		st.view.Kind == resource.Envoy && !st.hasClusters()
}

// digests are told apart by a seed that no client knows.
var digests = maphash.MakeSeed()

// digest stands for a list of names: a client repeats all of them with each ACK, and
// nearly always they are those of before.
func digest(names []string) uint64 {
	var h maphash.Hash
	h.SetSeed(digests)
	for _, name := range names {
		maphash.WriteComparable(&h, name)
	}
	return h.Sum64()
}

// subscribe takes over what a client of state of the world wants: all of it.
func (s *subscription) subscribe(all []string) {
	if s.legacy = s.legacy && len(all) == 0; s.legacy {
		s.setWildcard(true)
		return
	}
	s.setWildcard(slices.Contains(all, wildcard))
	var wanted bits
	for _, name := range all {
		if name == wildcard {
			continue
		}
		t := s.table.topics[name]
		if t == nil || !s.byName.has(t.id) {
			t = s.name(name)
			s.mark(t, false)
		}
		wanted.put(t.id, true)
	}
	if s.byName.len() > wanted.len() {
		for _, t := range s.topics() {
			if !wanted.has(t.id) {
				s.unname(t)
			}
		}
	}
}

// wants says whether these are the names that the client subscribes to already, in any order.
func (s *subscription) wants(all []string) bool {
	return len(all) == s.byName.len() && !slices.ContainsFunc(all, func(name string) bool {
		t := s.table.topics[name]
		return t == nil || !s.byName.has(t.id)
	})
}

// sendAgain marks all that the client names to be sent again, but what is on its way: the client
// asked before it had read that. Until it has answered another response it can ask for no more.
func (s *subscription) sendAgain() {
	s.heard = ""
	coming := map[*topic]bool{}
	for _, b := range s.inFlight {
		for _, i := range b.items {
			coming[i.topic] = true
		}
	}
	for id := range s.byName.all() {
		if t := s.table.topicIDs.all[id]; !coming[t] {
			s.mark(t, true)
		}
	}
}

// changeAsked takes over what a client of delta says of its subscriptions, and sends what
// there is to say.
func (s *Server) changeAsked(st *stream, r *discoveryv3.DeltaDiscoveryRequest) error {
	said := request{node: r.GetNode(), url: cmp.Or(r.GetTypeUrl(), st.url), nonce: r.GetResponseNonce(), refusal: r.GetErrorDetail()}
	s.mu.Lock()
	refused, err := s.changeAskedLocked(st, said, r)
	s.mu.Unlock()
	s.tell(st, refused, said)
	return err
}

func (s *Server) changeAskedLocked(st *stream, said request, r *discoveryv3.DeltaDiscoveryRequest) (*batch, error) {
	sub, first, refused, err := s.begin(st, said)
	if sub == nil {
		return refused, err
	}
	more, fewer := r.GetResourceNamesSubscribe(), r.GetResourceNamesUnsubscribe()
	if err := s.check(said.url, more); err != nil {
		return refused, err
	}
	if err := s.unknown.within(st.address, s.cfg.MaxUnknown, func() { sub.change(more, fewer) }); err != nil {
		return refused, err
	}
	if n := sub.byName.len(); n > s.cfg.MaxNames {
		return refused, s.tooMany(said.url, n)
	}
	if first {
		sub.claims.versions = r.GetInitialResourceVersions()
	} else if len(sub.claims.versions) > 0 {
		for _, name := range slices.Concat(more, fewer) {
			delete(sub.claims.versions, name) // it has lost it, or will
		}
	}
	if s.ready {
		sub.resume()
	}
	sub.armed = true
	s.flush(st)
	return refused, nil
}

// change takes over what a client of delta wants more, and no more.
func (s *subscription) change(more, fewer []string) {
	if s.legacy = s.legacy && len(more) == 0 && !slices.Contains(fewer, wildcard); s.legacy {
		s.setWildcard(true)
		return
	}
	// Everything stays subscribed, if it was, until the client says otherwise.
	everything := s.wildcard || slices.Contains(more, wildcard)
	s.setWildcard(everything && !slices.Contains(fewer, wildcard))
	for _, name := range more {
		if name != wildcard {
			// Also one that it has already: whoever asks again has lost it.
			s.mark(s.name(name), true)
		}
	}
	for _, name := range fewer {
		if t, ok := s.table.topics[name]; ok {
			s.unname(t)
		}
	}
}

// check bounds the names of one request.
func (s *Server) check(url string, names []string) error {
	if n := len(names); n > s.cfg.MaxNames {
		return s.tooMany(url, n)
	}
	for _, name := range names {
		if len(name) > maxName {
			return tooLong("a resource name")
		}
	}
	return nil
}

func (s *Server) tooMany(url string, names int) error {
	return endFor(TooManyNames, codes.ResourceExhausted, "%d names of %s: at most %d", names, url, s.cfg.MaxNames)
}

func tooLong(what string) error {
	return endFor(TooLong, codes.InvalidArgument, "%s is longer than %d bytes", what, maxName)
}

// claims are what a client that reconnects says that it holds. They are compared with what
// there is when the server knows it: nearly everybody comes back before that.
type claims struct {
	version  string            // state of the world: of everything
	versions map[string]string // delta: of each
}

// resume believes a client that reconnects what it holds.
func (s *subscription) resume() {
	said := s.claims
	s.claims = claims{}
	s.resumeAt(said.version)
	s.resumeFrom(said.versions)
}

// resumeAt believes a client of state of the world that it holds what it says, if that is
// all that there is for it now, and it wants all. One that names what it wants may have
// dropped a name and taken it up again since: its version is then that of an answer of
// which it no longer has all, and it would wait for the rest for good.
func (s *subscription) resumeAt(version string) {
	if version == "" || !s.wildcard || s.byName.len() > 0 {
		return
	}
	var sum uint64
	topics := s.topics()
	for _, t := range topics {
		if now := t.in(s.stream.view.Zone); now != nil {
			sum += now.sum
		}
	}
	if version != versionOf(sum) {
		return
	}
	for _, t := range topics {
		if t.in(s.stream.view.Zone) != nil {
			s.hold(t)
		}
	}
	s.answer = false
}

// resumeFrom believes a delta client each of what it holds.
func (s *subscription) resumeFrom(versions map[string]string) {
	for name, version := range versions {
		t := s.table.topics[name]
		e, known := s.entry(t)
		switch {
		case t == nil || t.in(s.stream.view.Zone) == nil:
			if s.wildcard && !e.named {
				s.gone = append(s.gone, name)
			}
		case known && version == t.in(s.stream.view.Zone).version:
			s.hold(t)
		}
	}
}
