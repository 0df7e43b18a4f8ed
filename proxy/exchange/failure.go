package exchange

import (
	"strings"

	"github.com/overhear-mesh/overhear/outlier"
)

// Failed is the answer to a request whose last attempt did not bring one.
func (x *Exchange) Failed(d *Deps, ending outlier.Ending) (status int, text, origin string) {
	status, text = statusOf(ending)
	if d.Inbound != nil {
		// To a caller of gRPC a time-out is DEADLINE_EXCEEDED, wherever it happened.
		if origin = originOf(ending); origin != "" && (!x.GRPC || origin != outlier.OriginTimeout) {
			status = 503
		}
	}
	return status, text, origin
}

// statusOf is the answer to an attempt that failed, as Envoy has it.
func statusOf(ending outlier.Ending) (int, string) {
	switch ending {
	case outlier.EndConnectRefused, outlier.EndUnreachable, outlier.EndTLS, outlier.EndOwnErrno:
		return 503, "no connection to the endpoint"
	case outlier.EndConnectTimeout:
		return 503, "connecting to the endpoint took too long"
	case outlier.EndLocalLimit:
		return 503, "too many connections"
	case outlier.EndRefusedStream, outlier.EndGoAwayUnprocessed, outlier.EndEnhanceYourCalm:
		return 503, "the endpoint did not take the request"
	case outlier.EndPerTryTimeout, outlier.EndRouteTimeout, outlier.EndBodyIdle, outlier.EndPingFailed, outlier.EndPeerWait:
		return 504, "the endpoint did not answer in time"
	case outlier.EndClientNotReading:
		return 408, "the request's body did not come in time"
	case outlier.EndBadFraming:
		return 502, "the endpoint's answer is malformed"
	case outlier.EndBodyCut:
		return 502, "the endpoint's answer is incomplete"
	case outlier.EndHTTP11Required:
		return 502, "the endpoint asks for HTTP/1.1"
	}
	return 503, "the endpoint closed the connection without an answer"
}

// FlagsOf are the flags of an attempt that ended so.
func FlagsOf(ending outlier.Ending) Flags {
	switch ending {
	case outlier.EndConnectRefused, outlier.EndUnreachable, outlier.EndTLS, outlier.EndOwnErrno, outlier.EndConnectTimeout:
		return UpstreamFailure
	case outlier.EndLocalLimit:
		return UpstreamOverflow
	case outlier.EndPerTryTimeout, outlier.EndRouteTimeout, outlier.EndPingFailed, outlier.EndPeerWait:
		return UpstreamTimeout
	case outlier.EndBodyIdle, outlier.EndClientNotReading:
		return StreamIdle
	case outlier.EndBadFraming, outlier.EndHTTP11Required:
		return UpstreamProtocolError
	case outlier.EndRefusedStream, outlier.EndStreamReset, outlier.EndEnhanceYourCalm:
		return UpstreamReset
	case outlier.EndClientAbort:
		return DownstreamTermination
	}
	return UpstreamTermination
}

// originOf names what the application did, for the sidecar that asked.
func originOf(ending outlier.Ending) string {
	switch ending {
	case outlier.EndConnectRefused, outlier.EndUnreachable:
		return outlier.OriginRefused
	case outlier.EndResetBeforeHeaders, outlier.EndKeepAliveRace, outlier.EndConnectionLost, outlier.EndSharedConnection:
		return outlier.OriginReset
	case outlier.EndConnectTimeout, outlier.EndPerTryTimeout, outlier.EndRouteTimeout, outlier.EndPingFailed, outlier.EndPeerWait:
		return outlier.OriginTimeout
	}
	return ""
}

// OriginFlags are the flags of an answer in which an inbound sidecar says so of its
// application.
func OriginFlags(origin string) Flags {
	switch origin {
	case outlier.OriginRefused:
		return UpstreamFailure
	case outlier.OriginReset:
		return UpstreamTermination
	case outlier.OriginTimeout:
		return UpstreamTimeout
	}
	return 0
}

// Codes of gRPC that a proxy answers with.
const (
	GRPCCancelled        = 1
	GRPCUnknown          = 2
	GRPCDeadlineExceeded = 4
	GRPCPermissionDenied = 7
	GRPCResourceLimit    = 8
	GRPCUnimplemented    = 12
	GRPCInternal         = 13
	GRPCUnavailable      = 14
	GRPCUnauthenticated  = 16
)

// GRPCStatus is the code for an answer of our own to a caller that speaks gRPC. It
// follows gRPC's table for proxies that do not know better
// (https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md),
// except that a time-out of ours is what the caller's own would be.
func GRPCStatus(status int) int {
	switch status {
	case 400:
		return GRPCInternal
	case 401:
		return GRPCUnauthenticated
	case 403:
		return GRPCPermissionDenied
	case 404:
		return GRPCUnimplemented
	case 408, 504:
		return GRPCDeadlineExceeded
	case 413, 431:
		return GRPCResourceLimit
	case 429, 502, 503:
		return GRPCUnavailable
	}
	return GRPCUnknown
}

// GRPCMessage is a text of ours as grpc-message has it: percent-encoded where it is not
// printable ASCII
// (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#responses). The text
// of a rule may have line feeds, which would end the field.
func GRPCMessage(text string) string {
	const prefix, digits = "overhear: ", "0123456789ABCDEF"
	special := func(c byte) bool { return c < ' ' || c > '~' || c == '%' }
	var b strings.Builder
	b.WriteString(prefix)
	for i := range len(text) {
		if c := text[i]; special(c) {
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
