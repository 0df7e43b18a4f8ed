package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/proxy/admin"
	"github.com/overhear-mesh/overhear/proxy/config"
	"github.com/overhear-mesh/overhear/proxy/discovery"
)

// listen makes the listeners that the control plane tells of just these, beside those of
// the file, as a reload does. With an error nothing has changed. It waits until the
// file's are open.
func (s *Sidecar) listen(told []config.Outbound) error {
	<-s.opened
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == nil {
		return errors.New("the sidecar takes no new connections")
	}
	next := withTold(s.cfg, told)
	// The listeners have been checked one by one, but not against each other.
	err := next.Validate()
	if err == nil {
		err = s.applyLocked(context.Background(), next)
	}
	if err != nil {
		return toldError(err, len(s.cfg.Outbound), told)
	}
	s.told = told
	return nil
}

// withTold is the configuration of the file with the control plane's listeners.
func withTold(cfg config.Config, told []config.Outbound) config.Config {
	cfg.Outbound = slices.Concat(cfg.Outbound, told)
	return cfg
}

// toldError calls listeners by their names that stand in no file.
func toldError(err error, file int, told []config.Outbound) error {
	text := err.Error()
	for i, o := range told {
		text = strings.ReplaceAll(text, fmt.Sprintf("outbound[%d]", file+i), fmt.Sprintf("listener %q", o.Name))
	}
	return errors.New(text)
}

// toldStatus is how the sidecar stands with its control plane.
func (s *Sidecar) toldStatus() *admin.ControlPlane {
	from := s.discovery.Status()
	st := &admin.ControlPlane{Connected: from.Connected, Reporting: s.reporter.Connected(), Deaf: s.reporter.Deaf(), Source: from.Source.String(), NoListeners: from.Missing}
	if from.Source == discovery.Saved {
		st.Age = from.Age.Round(time.Second).String()
	}
	for _, l := range from.Listeners {
		st.Listeners = append(st.Listeners, admin.ToldListener{Name: l.Name, Open: l.Open, Problem: l.Problem})
	}
	for kind, r := range from.Refused {
		if r.Last != "" {
			st.Refused = append(st.Refused, admin.Refused{Kind: kind, Reason: r.Last})
		}
	}
	slices.SortFunc(st.Refused, func(a, b admin.Refused) int { return strings.Compare(a.Kind, b.Kind) })
	return st
}

// refusals are the responses of the control plane that were refused, by what they
// brought.
func (s *Sidecar) refusals() map[string]uint64 {
	all := map[string]uint64{}
	for kind, r := range s.discovery.Status().Refused {
		all[kind] = r.Total
	}
	return all
}
