package http2

import (
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/overhear-mesh/overhear/proxy/router"
	"github.com/overhear-mesh/overhear/proxy/syntax"
)

// maxMethod bounds a method, as in proxy/http1.
const maxMethod = 24

var (
	errTooLarge    = &fault{codeCalm, "header section too large"}
	errTooMany     = &fault{codeCalm, "too many header fields"}
	errPseudo      = &fault{codeProtocol, "malformed pseudo-header"}
	errFieldName   = &fault{codeProtocol, "malformed header field name"}
	errFieldValue  = &fault{codeProtocol, "forbidden character in a header field"}
	errConnection  = &fault{codeProtocol, "header field of another version"}
	errLength      = &fault{codeProtocol, "content-length and body differ"}
	errLengthForm  = &fault{codeProtocol, "malformed content-length"}
	errHost        = &fault{codeProtocol, "malformed or contradictory host"}
	errPath        = &fault{codeProtocol, "malformed path"}
	errMethod      = &fault{codeProtocol, "malformed method"}
	errStatus      = &fault{codeProtocol, "malformed status"}
	errTrailerName = &fault{codeProtocol, "forbidden trailer field"}
	errNoHead      = &fault{codeProtocol, "data before the head"}
)

// request is the head of a request. Its strings stay; fields is the link's.
type request struct {
	method, scheme, authority, path string
	protocol                        string              // of an extended CONNECT
	regular                         []hpack.HeaderField // without pseudo-headers
	length                          int64               // content-length, -1 without
	forwarded                       int                 // index of the last x-forwarded-for in regular, -1 without
	identified                      string              // x-request-id
	agent                           string
	timeout                         time.Duration // grpc-timeout, 0 without
	proto, te, grpc, continues      bool
	connect                         bool
	route                           *router.Route // if it has been looked for
}

// Field implements router.Fields. Crumbs of a cookie are one field (RFC 9113, section
// 8.2.3).
func (r *request) Field(name string) (value []byte, ok bool) {
	for i := range r.regular {
		switch f := &r.regular[i]; {
		case f.Name != name: // names are in lower case
		case name != "cookie":
			return []byte(f.Value), true
		case ok:
			value = append(append(value, "; "...), f.Value...)
		default:
			value, ok = []byte(f.Value), true
		}
	}
	return value, ok
}

// parse reads what a whole header block says (RFC 9113, sections 8.2 and 8.3). Where
// an implementation may survive a violation, this one does not: what comes out is
// written to others, in other versions too.
func (r *request) parse(fields []hpack.HeaderField) *fault {
	*r = request{length: -1, forwarded: -1}
	n := 0
	for ; n < len(fields) && len(fields[n].Name) > 0 && fields[n].Name[0] == ':'; n++ {
		f := &fields[n]
		var into *string
		switch f.Name {
		case ":method":
			into = &r.method
		case ":scheme":
			into = &r.scheme
		case ":authority":
			into = &r.authority
		case ":path":
			into = &r.path
		case ":protocol":
			into = &r.protocol
		default:
			return errPseudo
		}
		if *into != "" || f.Value == "" {
			return errPseudo
		}
		*into = f.Value
	}
	r.regular = fields[n:]
	hosts := 0
	for i := range r.regular {
		f := &r.regular[i]
		if fault := checkField(f); fault != nil {
			return fault
		}
		switch syntax.KindOf(f.Name) {
		case syntax.HopByHop, syntax.Connection, syntax.TransferEncoding, syntax.Upgrade:
			if f.Name == "proxy-authenticate" || f.Name == "proxy-authorization" {
				continue // of this hop, and not passed on; but no mistake
			}
			return errConnection
		case syntax.TE:
			if f.Value != "trailers" {
				return errConnection
			}
			r.te = true
		case syntax.ContentLength:
			if r.length >= 0 {
				return errLengthForm
			}
			var ok bool
			if r.length, ok = syntax.Number(f.Value); !ok {
				return errLengthForm
			}
		case syntax.Host:
			if hosts++; hosts > 1 || r.authority != "" && r.authority != f.Value {
				return errHost
			}
			r.authority = f.Value
		case syntax.Trailer:
			// says nothing that must be kept
		case syntax.Expect:
			r.continues = syntax.Is(f.Value, "100-continue")
		case syntax.ForwardedFor:
			r.forwarded = i
		case syntax.ForwardedProto:
			r.proto = true
		case syntax.RequestID:
			r.identified = f.Value
		case syntax.ContentType:
			r.grpc = syntax.IsGRPC(f.Value)
		case syntax.Other:
			switch f.Name {
			case "user-agent":
				r.agent = f.Value
			case "grpc-timeout":
				r.timeout = grpcTimeout(f.Value)
			}
		}
	}
	return r.check()
}

func (r *request) check() *fault {
	if len(r.method) == 0 || len(r.method) > maxMethod || !syntax.All(r.method, syntax.Token) {
		return errMethod
	}
	switch {
	case r.method == "CONNECT":
		if r.length > 0 {
			return errLengthForm // what follows is no body
		}
		r.connect, r.length = true, -1
		if r.protocol != "" {
			break // has all that other requests have (RFC 8441, section 4)
		}
		if r.scheme != "" || r.path != "" {
			return errPseudo
		}
		if r.authority == "" || !syntax.ValidHost([]byte(r.authority)) {
			return errHost
		}
		return nil
	case r.protocol != "":
		return errPseudo
	}
	switch {
	case r.scheme != "http" && r.scheme != "https", r.path == "":
		return errPseudo
	case r.authority == "" || !syntax.ValidHost([]byte(r.authority)):
		return errHost
	case r.path == "*":
		if r.method != "OPTIONS" {
			return errPath
		}
	case r.path[0] != '/' || !syntax.All(r.path, syntax.Target) || !syntax.ValidEscapes(r.path):
		return errPath
	}
	return nil
}

// checkField reads one regular field (RFC 9113, section 8.2.1). Names have no
// capitals, and a value neither begins nor ends with white space.
func checkField(f *hpack.HeaderField) *fault {
	if len(f.Name) == 0 {
		return errFieldName
	}
	for i := range len(f.Name) {
		c := f.Name[i]
		if syntax.Class[c]&syntax.Token == 0 || 'A' <= c && c <= 'Z' {
			if i == 0 && c == ':' {
				return errPseudo
			}
			return errFieldName
		}
	}
	if n := len(f.Value); n > 0 && (f.Value[0] == ' ' || f.Value[0] == '\t' || f.Value[n-1] == ' ' || f.Value[n-1] == '\t') {
		return errFieldValue
	}
	if !syntax.All(f.Value, syntax.Value) {
		return errFieldValue
	}
	return nil
}

// checkTrailers reads a trailer section: what frames or routes a message has no place
// there (RFC 9110, section 6.5.1).
func checkTrailers(fields []hpack.HeaderField) *fault {
	for i := range fields {
		if fault := checkField(&fields[i]); fault != nil {
			return fault
		}
		switch syntax.KindOf(fields[i].Name) {
		case syntax.HopByHop, syntax.Connection, syntax.ContentLength, syntax.TransferEncoding, syntax.Host, syntax.TE,
			syntax.Trailer, syntax.Upgrade, syntax.Expect:
			return errTrailerName
		}
	}
	return nil
}

// grpcTimeout reads grpc-timeout: up to eight digits and a unit
// (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md). What is none is
// none of our business.
func grpcTimeout(value string) time.Duration {
	if len(value) < 2 || len(value) > 9 {
		return 0
	}
	n, ok := syntax.Number(value[:len(value)-1])
	if !ok {
		return 0
	}
	unit := time.Duration(0)
	switch value[len(value)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	}
	// 99999999 hours are more than a Duration can hold, and than anybody waits.
	return time.Duration(min(n, int64(365*24*time.Hour/max(unit, 1)))) * unit
}

// response is the head of a response.
type response struct {
	status     int
	regular    []hpack.HeaderField
	length     int64
	retryAfter bool
	wait       time.Duration
	origin     string
	dated      bool
	grpc       bool
	grpcStatus string
	pushback   bool
}

// maxWait is the longest Retry-After that is believed.
const maxWait = 300 * time.Second

func (r *response) parse(fields []hpack.HeaderField) *fault {
	*r = response{length: -1}
	if len(fields) == 0 || fields[0].Name != ":status" || len(fields[0].Value) != 3 {
		return errStatus
	}
	n, ok := syntax.Number(fields[0].Value)
	if !ok || n < 100 || n > 599 || n == 101 {
		return errStatus
	}
	r.status = int(n)
	r.regular = fields[1:]
	for i := range r.regular {
		f := &r.regular[i]
		if fault := checkField(f); fault != nil {
			return fault
		}
		switch syntax.KindOf(f.Name) {
		case syntax.HopByHop, syntax.Connection, syntax.TransferEncoding, syntax.Upgrade:
			if f.Name == "proxy-authenticate" || f.Name == "proxy-authorization" {
				continue
			}
			return errConnection
		case syntax.ContentLength:
			if r.length >= 0 {
				return errLengthForm
			}
			if r.length, ok = syntax.Number(f.Value); !ok {
				return errLengthForm
			}
		case syntax.RetryAfter:
			r.retryAfter = true
			if n, ok := syntax.Number(f.Value); ok {
				r.wait = min(time.Duration(min(n, int64(maxWait/time.Second)))*time.Second, maxWait)
			}
		case syntax.Origin:
			r.origin = f.Value
		case syntax.Date:
			r.dated = true
		case syntax.ContentType:
			r.grpc = syntax.IsGRPC(f.Value)
		case syntax.GRPCStatus:
			r.grpcStatus = f.Value
		case syntax.Other:
			r.pushback = r.pushback || f.Name == "grpc-retry-pushback-ms"
		}
	}
	return nil
}

// bodiless responses have no data, whatever content-length says.
func (r *response) bodiless(method string) bool {
	return method == "HEAD" || r.status < 200 || r.status == 204 || r.status == 304
}
