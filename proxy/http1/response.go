package http1

import (
	"bytes"
	"time"

	"github.com/overhear-mesh/overhear/proxy/syntax"
)

// response is the head of a response.
type response struct {
	message
	status     int
	reason     span
	begun      bool
	retryAfter bool
	wait       time.Duration // Retry-After in seconds; 0 if it is a date or absurd
	keptFor    time.Duration // timeout of Keep-Alive; 0 if it is not there or absurd
	origin     span          // value of x-overhear-origin
	dated      bool
	grpc       bool // content-type is gRPC's
	grpcStatus span // value of grpc-status
}

const (
	// maxWait is the longest Retry-After that is believed.
	maxWait = 300 * time.Second
	// maxKept is the longest timeout of a Keep-Alive that is. What exceeds it bounds
	// nothing.
	maxKept = 24 * time.Hour
)

func (r *response) reset() {
	r.message.reset()
	*r = response{message: r.message}
}

// parse reads the head at the beginning of buf, as request.parse does. The
// response of a server is no more trusted than the request of a client: who can
// make a server send a second response can choose who gets it.
func (r *response) parse(buf []byte, lim limits) (done bool, p *problem) {
	if !r.begun {
		if len(buf) > 0 && buf[0] != 'H' {
			return false, errStartLine
		}
		start, end, ok, p := r.line(buf, lim)
		if !ok {
			return false, p
		}
		if p := r.statusLine(buf, start, end); p != nil {
			return false, p
		}
		r.begun = true
	}
	done, p = r.section(buf, lim)
	if !done {
		return false, p
	}
	return true, r.check(buf)
}

// statusLine reads `version SP status SP reason` (RFC 9112, section 4). The
// second space is often missing where there is no reason.
func (r *response) statusLine(buf []byte, start, end int) *problem {
	line := buf[start:end]
	if len(line) < 12 || line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return errStartLine
	}
	minor, p := version(line[:8])
	if p != nil {
		return p
	}
	n, ok := syntax.Number(line[9:12])
	if !ok || n < 100 || n > 599 {
		return errStatus
	}
	r.minor, r.status = minor, int(n)
	if len(line) > 13 {
		if !syntax.All(line[13:], syntax.Value) {
			return errControl
		}
		r.reason = span{int32(start + 13), int32(end)}
	}
	return nil
}

func (r *response) check(buf []byte) *problem {
	if p := r.frame(buf); p != nil {
		return p
	}
	for i := range r.fields {
		f := &r.fields[i]
		switch f.kind {
		case syntax.RetryAfter:
			r.retryAfter = true
			if n, ok := syntax.Number(f.value.of(buf)); ok {
				r.wait = min(time.Duration(min(n, int64(maxWait/time.Second)))*time.Second, maxWait)
			}
		case syntax.HopByHop:
			if syntax.Is(f.name.of(buf), "keep-alive") {
				r.keptFor = keptFor(f.value.of(buf))
			}
		case syntax.Origin:
			r.origin = f.value
		case syntax.Date:
			r.dated = true
		case syntax.ContentType:
			r.grpc = syntax.IsGRPC(f.value.of(buf))
		case syntax.GRPCStatus:
			r.grpcStatus = f.value
		}
	}
	return nil
}

// keptFor reads how long a server keeps an idle connection, from a Keep-Alive such as
// `timeout=5, max=100` (RFC 2068, section 19.7.1.1, and what servers make of it).
func keptFor(list []byte) time.Duration {
	for len(list) > 0 {
		var parameter []byte
		parameter, list = syntax.Element(list)
		name, value, _ := bytes.Cut(parameter, []byte("="))
		if !syntax.Is(syntax.Trim(name), "timeout") {
			continue
		}
		if n, ok := syntax.Number(syntax.Trim(value)); ok && n <= int64(maxKept/time.Second) {
			return time.Duration(n) * time.Second
		}
		return 0
	}
	return 0
}

// interim responses are followed by another one (RFC 9110, section 15.2).
func (r *response) interim() bool { return r.status < 200 }

// bodiless responses end with their head, whatever their fields say (RFC 9112,
// section 6.3).
func (r *response) bodiless(head bool) bool {
	return head || r.status < 200 || r.status == 204 || r.status == 304
}
