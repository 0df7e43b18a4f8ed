package syntax

// OriginField tells an outbound sidecar what its peer's application did. It is
// never shown to an application.
const OriginField = "x-overhear-origin"

// Kind says which field a name names, of those that mean something to a proxy.
type Kind uint8

const (
	Other Kind = iota
	HopByHop
	Connection
	ContentLength
	TransferEncoding
	Host
	Expect
	TE
	Trailer
	Upgrade
	Via
	Date
	RetryAfter
	ForwardedFor
	ForwardedProto
	RequestID
	Origin
	ContentType
	GRPCStatus
	Trace // of W3C Trace Context or of B3
)

// KindOf recognises a field by length first: few names share one.
func KindOf[T text](name T) Kind {
	switch len(name) {
	case 2:
		if Is(name, "te") {
			return TE
		}
		return pick(name, "b3", Trace)
	case 3:
		return pick(name, "via", Via)
	case 4:
		if Is(name, "host") {
			return Host
		}
		return pick(name, "date", Date)
	case 6:
		return pick(name, "expect", Expect)
	case 7:
		if Is(name, "trailer") {
			return Trailer
		}
		return pick(name, "upgrade", Upgrade)
	case 10:
		if Is(name, "connection") {
			return Connection
		}
		if Is(name, "tracestate") || Is(name, "x-b3-flags") {
			return Trace
		}
		return pick(name, "keep-alive", HopByHop)
	case 11:
		switch {
		case Is(name, "grpc-status"):
			return GRPCStatus
		case Is(name, "traceparent"), Is(name, "x-b3-spanid"):
			return Trace
		}
		return pick(name, "retry-after", RetryAfter)
	case 12:
		switch {
		case Is(name, "content-type"):
			return ContentType
		case Is(name, "x-b3-traceid"), Is(name, "x-b3-sampled"):
			return Trace
		}
		return pick(name, "x-request-id", RequestID)
	case 14:
		if Is(name, "content-length") {
			return ContentLength
		}
		return pick(name, "http2-settings", HopByHop)
	case 15:
		return pick(name, "x-forwarded-for", ForwardedFor)
	case 16:
		return pick(name, "proxy-connection", HopByHop)
	case 17:
		switch {
		case Is(name, "transfer-encoding"):
			return TransferEncoding
		case Is(name, "x-forwarded-proto"):
			return ForwardedProto
		case Is(name, "x-b3-parentspanid"):
			return Trace
		}
		return pick(name, OriginField, Origin)
	case 18:
		return pick(name, "proxy-authenticate", HopByHop)
	case 19:
		return pick(name, "proxy-authorization", HopByHop)
	}
	return Other
}

func pick[T text](name T, lower string, k Kind) Kind {
	if Is(name, lower) {
		return k
	}
	return Other
}

// IsGRPC reports whether a content-type is gRPC's: application/grpc, alone or with a
// suffix such as +proto.
func IsGRPC[T text](value T) bool {
	const grpc = "application/grpc"
	if len(value) < len(grpc) || !Is(value[:len(grpc)], grpc) {
		return false
	}
	return len(value) == len(grpc) || value[len(grpc)] == '+' || value[len(grpc)] == ';' || value[len(grpc)] == ' '
}
