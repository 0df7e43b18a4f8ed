package http1

import (
	"bytes"

	"github.com/overhear-mesh/overhear/proxy/syntax"
)

// maxMethod bounds a method; the longest registered one has 17 bytes
// (UPDATEREDIRECTREF).
const maxMethod = 24

// request is the head of a request.
type request struct {
	message
	method, target span
	authority      span // of an absolute target, else the value of Host
	absolute       bool // the target had a scheme and an authority
	begun          bool // the request line has been parsed
	continues      bool // Expect: 100-continue
	connect        bool // the method is CONNECT
	lastForwarded  int  // index of the last X-Forwarded-For, -1 without
	identified     span // value of X-Request-Id
	proto          bool // has X-Forwarded-Proto
	grpc           bool // content-type is gRPC's
}

func (r *request) reset() {
	r.message.reset()
	*r = request{message: r.message, lastForwarded: -1}
}

// parse reads the head at the beginning of buf. It may be called again when more
// bytes have come; done is true when the head is complete. A problem is final.
func (r *request) parse(buf []byte, lim limits) (done bool, p *problem) {
	if !r.begun {
		// A request begins with a token: whoever speaks TLS, or worse, need not
		// be listened to until he sends a line feed.
		if len(buf) > 0 && syntax.Class[buf[0]]&syntax.Token == 0 && buf[0] != '\r' {
			return false, errStartLine
		}
		start, end, ok, p := r.line(buf, lim)
		if !ok {
			return false, p
		}
		if start == end && start == 0 {
			// RFC 9112, section 2.2: ignore an empty line before the request line.
			if start, end, ok, p = r.line(buf, lim); !ok {
				r.head.reset() // look at both lines again
				return false, p
			}
		}
		if p := r.requestLine(buf, start, end); p != nil {
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

// requestLine reads `method SP target SP version` (RFC 9112, section 3), with
// single spaces.
func (r *request) requestLine(buf []byte, start, end int) *problem {
	line := buf[start:end]
	m := bytes.IndexByte(line, ' ')
	if m <= 0 || m > maxMethod || !syntax.All(line[:m], syntax.Token) {
		return errMethod
	}
	v := bytes.LastIndexByte(line, ' ')
	if v == m {
		return errStartLine
	}
	target := line[m+1 : v]
	if len(target) == 0 || !syntax.All(target, syntax.Target) {
		return errTarget
	}
	minor, p := version(line[v+1:])
	if p != nil {
		return p
	}
	r.minor = minor
	r.method = span{int32(start), int32(start + m)}
	r.target = span{int32(start + m + 1), int32(start + v)}
	return nil
}

// version reads HTTP-version. What is not HTTP/1.0 or 1.1 but has its form is
// another protocol; the rest is noise.
func version(p []byte) (minor uint8, _ *problem) {
	if len(p) != 8 || string(p[:5]) != "HTTP/" || p[6] != '.' || p[5] < '0' || p[5] > '9' || p[7] < '0' || p[7] > '9' {
		return 0, errStartLine
	}
	if p[5] != '1' || p[7] > '1' {
		return 0, errVersion
	}
	return p[7] - '0', nil
}

// check reads what the head as a whole says.
func (r *request) check(buf []byte) *problem {
	if p := r.frame(buf); p != nil {
		return p
	}
	hosts := 0
	for i := range r.fields {
		f := &r.fields[i]
		switch f.kind {
		case syntax.Host:
			hosts++
			r.authority = f.value
		case syntax.Expect:
			if !syntax.Is(f.value.of(buf), "100-continue") {
				return errExpect
			}
			r.continues = r.minor >= 1 // RFC 9110, section 10.1.1
		case syntax.ForwardedFor:
			r.lastForwarded = i
		case syntax.ForwardedProto:
			r.proto = r.proto || f.value.len() > 0
		case syntax.RequestID:
			r.identified = f.value
		case syntax.ContentType:
			r.grpc = syntax.IsGRPC(f.value.of(buf))
		}
	}
	switch {
	case hosts > 1:
		return errHostRepeated
	case hosts == 0 && r.minor >= 1:
		return errHostMissing
	case hosts == 1 && !syntax.ValidHost(r.authority.of(buf)):
		return errHost
	}
	return r.splitTarget(buf)
}

// splitTarget takes the four forms of a target apart (RFC 9112, section 3.2).
func (r *request) splitTarget(buf []byte) *problem {
	target := r.target.of(buf)
	method := r.method.of(buf)
	switch {
	case string(method) == "CONNECT":
		r.connect = true
		return r.splitConnect(target)
	case target[0] == '/':
		return checkTarget(target)
	case len(target) == 1 && target[0] == '*':
		if string(method) != "OPTIONS" {
			return errTarget
		}
		return nil
	}
	const scheme = "http://"
	if len(target) <= len(scheme) || !bytes.EqualFold(target[:len(scheme)], []byte(scheme)) {
		return errTarget
	}
	end := len(scheme)
	for end < len(target) && target[end] != '/' && target[end] != '?' {
		end++
	}
	// The target's authority replaces Host (section 3.2.2). User information in
	// it has no place in a request (RFC 9110, section 4.2.4), and '@' is not a
	// byte of a host.
	authority := span{r.target.start + int32(len(scheme)), r.target.start + int32(end)}
	if !syntax.ValidHost(authority.of(buf)) {
		return errTarget
	}
	r.absolute = true
	r.authority = authority
	r.target.start += int32(end)
	return checkTarget(target[end:])
}

// splitConnect reads the authority form, host and port (RFC 9112, section 3.2.3). It
// takes the place of Host. What followed the head would be the tunnel's for some
// readers and a body for others.
func (r *request) splitConnect(target []byte) *problem {
	if r.hasBody() {
		return errConnectBody
	}
	colon := bytes.LastIndexByte(target, ':')
	if colon <= 0 || !syntax.ValidHost(target) {
		return errTarget
	}
	if port, ok := syntax.Number(target[colon+1:]); !ok || port < 1 || port > 1<<16-1 {
		return errTarget // among them an IPv6 address without a port
	}
	r.authority = r.target
	return nil
}

// hasBody reports whether anything follows the head.
func (r *request) hasBody() bool { return r.chunked || r.length > 0 }

func checkTarget(target []byte) *problem {
	if !syntax.ValidEscapes(target) {
		return errTarget
	}
	return nil
}
