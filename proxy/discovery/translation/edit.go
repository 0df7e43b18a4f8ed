package translation

import (
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/overhear-mesh/overhear/proxy/router"
)

// edited is a message that changes header fields: a RouteConfiguration, a VirtualHost
// or a Route.
type edited interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
	GetResponseHeadersToAdd() []*corev3.HeaderValueOption
	GetResponseHeadersToRemove() []string
}

// edits are what the levels above a route and the route itself change. Envoy has an
// order in which levels overrule each other; here no field may be changed twice, so
// that none is needed.
type edits struct {
	request, response router.Edit
	requestAt         map[string]string // the field's name in lower case → where it is changed
	responseAt        map[string]string
}

// with returns the edits and those of one more level.
func (e edits) with(m edited, at string, p *problems) edits {
	e.request, e.requestAt = merged(e.request, e.requestAt, m.GetRequestHeadersToAdd(), m.GetRequestHeadersToRemove(), join(at, "request_headers_to_"), p)
	e.response, e.responseAt = merged(e.response, e.responseAt, m.GetResponseHeadersToAdd(), m.GetResponseHeadersToRemove(), join(at, "response_headers_to_"), p)
	return e
}

func merged(have router.Edit, places map[string]string, add []*corev3.HeaderValueOption, remove []string, at string, p *problems) (router.Edit, map[string]string) {
	if len(add) == 0 && len(remove) == 0 {
		return have, places
	}
	out := router.Edit{Set: copied(have.Set), Add: copied(have.Add), Remove: append([]string(nil), have.Remove...)}
	places = copied(places)
	take := func(name, place string) bool {
		name = strings.ToLower(name)
		if first, twice := places[name]; twice {
			p.Add(place, "changes %s, and so does %s: want one of them", clip(name), first)
			return false
		}
		places[name] = place
		return true
	}
	for i, o := range add {
		place := fmt.Sprintf("%sadd[%d]", at, i)
		name, value, ok := option(o, place, p)
		if !ok || !take(name, place) {
			continue
		}
		appends := o.GetAppend() //nolint:staticcheck // deprecated, and still what many control planes send
		if o.GetAppendAction() == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD || appends != nil && !appends.GetValue() {
			out.Set[name] = value
		} else {
			out.Add[name] = value
		}
	}
	for i, name := range remove {
		if take(name, fmt.Sprintf("%sremove[%d]", at, i)) {
			out.Remove = append(out.Remove, name)
		}
	}
	return out, places
}

// option reads a field that is to be added. ok is false if there is nothing to add.
func option(o *corev3.HeaderValueOption, at string, p *problems) (name, value string, ok bool) {
	h := o.GetHeader()
	value = h.GetValue()
	if value == "" {
		value = string(h.GetRawValue())
	}
	if value == "" && !o.GetKeepEmptyValue() {
		return "", "", false
	}
	plain := strings.ReplaceAll(value, "%%", "")
	if strings.Contains(plain, "%") {
		p.Add(at+".header.value", "is %q: variables are not supported, and a %% stands as %%%%", clip(value))
	}
	return h.GetKey(), strings.ReplaceAll(value, "%%", "%"), true
}

// copied is a map of its own, never nil.
func copied(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}
