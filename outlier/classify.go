package outlier

import "time"

// Ending is how an attempt came to its end, in words that no protocol owns.
// Whoever carries the attempt reports the Ending; what it means for the
// endpoint is decided here.
type Ending uint8

const (
	// EndComplete: the exchange came to its regular end; the status tells.
	EndComplete Ending = iota

	// Connecting.
	EndConnectRefused // ECONNREFUSED, or RST in answer to SYN
	EndConnectTimeout
	EndUnreachable // EHOSTUNREACH, ENETUNREACH
	EndTLS         // handshake or verification failed
	EndPeerWait    // waited too long for the peer's handshake or its MAX_CONCURRENT_STREAMS
	EndOwnErrno    // our own trouble: EMFILE, EADDRNOTAVAIL, ENOBUFS, link down
	EndLocalLimit  // our own pool, queue or breaker said no, or made it wait too long

	// Before an answer.
	EndResetBeforeHeaders  // EOF or RST before the first byte of the response
	EndKeepAliveRace       // the same, on a reused HTTP/1.1 connection that was idle for at least 1 s; a second one within 1 s is EndResetBeforeHeaders
	EndConnectionLost      // a shared connection was lost while attempts awaited headers
	EndPerTryTimeout       // one attempt had its time
	EndRouteTimeout        // the whole request's time was up
	EndPingFailed          // the connection's liveness ping went unanswered
	EndRefusedStream       // REFUSED_STREAM: nothing was processed
	EndEnhanceYourCalm     // ENHANCE_YOUR_CALM, on the stream or in GOAWAY
	EndGoAwayUnprocessed   // GOAWAY NO_ERROR, stream above its last id
	EndGoAwayError         // GOAWAY with an error
	EndHTTP11Required      // the peer asks for the older protocol
	EndStreamReset         // any other RST_STREAM before END_STREAM
	EndSharedConnection    // died with a connection whose loss was charged to another stream
	EndFirstByteTimeout    // TCP: no first byte in time
	EndPeerClosedSilent    // TCP: FIN or RST before any byte although the client had sent
	EndPeerClosedUntouched // TCP: the peer closed before any byte, and the client had sent nothing

	// In the body.
	EndBodyIdle                // no byte for the idle timeout while the client reads
	EndBodyCut                 // shorter than promised, or the connection was lost with only bodies in flight
	EndBadFraming              // bytes that are no valid message
	EndMaxDuration             // the stream's maximum duration was up while bytes were flowing
	EndClientNotReading        // the client stopped reading
	EndClientAbort             // the client left
	EndHedgeLoser              // another attempt for the same request won
	endingCount         Ending = iota
)

var endingNames = [...]string{
	"complete",
	"connect refused", "connect timeout", "unreachable", "tls", "peer wait", "own errno", "local limit",
	"reset before headers", "keep-alive race", "connection lost", "per-try timeout", "route timeout",
	"ping failed", "refused stream", "enhance your calm", "goaway unprocessed", "goaway error",
	"http/1.1 required", "stream reset", "shared connection", "first byte timeout", "peer closed silent",
	"peer closed untouched",
	"body idle", "body cut", "bad framing", "max duration", "client not reading", "client abort", "hedge loser",
}

func (e Ending) String() string { return name(endingNames[:], "ending", uint8(e)) }

// Level is how deep the connection broke, if that is what ended the attempt: what a
// probe must reach to confirm or to contradict it. Else it is LevelNone.
func (e Ending) Level() Level {
	switch e {
	case EndConnectRefused, EndUnreachable:
		return LevelConnect
	case EndTLS:
		return LevelTLS
	case EndResetBeforeHeaders, EndConnectionLost, EndKeepAliveRace, EndBodyCut, EndPeerClosedSilent:
		return LevelApp
	default:
		return LevelNone
	}
}

// The values of the x-overhear-origin header, by which an inbound sidecar
// says that the failure is its application's and not its own.
const (
	OriginRefused = "app-refused" // the application refused the connection: nothing was processed
	OriginReset   = "app-reset"   // it closed without an answer
	OriginTimeout = "app-timeout" // it did not answer in time
)

// HTTPResult is all that one attempt over HTTP/1.1, HTTP/2 or gRPC showed.
type HTTPResult struct {
	Ending Ending
	// Status is the final response's status, 0 if there was none.
	Status int
	// HeadersSeen says that the final response's headers arrived.
	HeadersSeen bool
	// RetryAfter says that the response carried Retry-After.
	RetryAfter bool
	// Origin is x-overhear-origin, if the endpoint is one that may send it;
	// empty if it is absent or not to be believed.
	Origin string
	// Age is the attempt's age at its end, Overdue the age at which an answer
	// was due ([Detector.Overdue]).
	Age, Overdue time.Duration
	// BodyStalled is for how long the body had not moved at the end.
	BodyStalled time.Duration
	// ShortDeadline says that the attempt's deadline was below the group's
	// median latency: running into it says nothing.
	ShortDeadline bool

	// GRPC says that the exchange was gRPC. GRPCStatusSeen says that a
	// grpc-status arrived, in headers or trailers; GRPCStatus is its value.
	GRPC           bool
	GRPCStatusSeen bool
	GRPCStatus     int
	// Pushback says that grpc-retry-pushback-ms came with the status.
	Pushback bool
}

// Level is how deep the connection to the endpoint, or that of its sidecar to the
// application, broke; LevelNone if it did not.
func (r HTTPResult) Level() Level {
	switch {
	case r.Ending != EndComplete:
		return r.Ending.Level()
	case r.Origin == OriginRefused:
		return LevelConnect
	case r.Origin == OriginReset:
		return LevelApp
	default:
		return LevelNone
	}
}

// Gateway says that the answer is one that a gateway gives for a server that it
// cannot reach: 502, 503, 504, or UNAVAILABLE, which is gRPC's 503.
func (r HTTPResult) Gateway() bool {
	if r.Ending != EndComplete {
		return false
	}
	if r.GRPC && r.GRPCStatusSeen {
		return r.GRPCStatus == grpcUnavailable
	}
	return r.Status >= 502 && r.Status <= 504
}

// ClassifyHTTP says what an attempt means for its endpoint. The order of the
// classes is part of the rule, the first match wins: what says nothing is set
// aside before anything is held against the endpoint.
func ClassifyHTTP(r HTTPResult) Class {
	switch r.Ending {
	case EndComplete:
		return classifyAnswer(r)
	case EndClientAbort, EndHedgeLoser:
		if r.awaited() {
			return Censored
		}
		return Ignore
	case EndPerTryTimeout:
		if r.ShortDeadline {
			return Ignore
		}
		return Timeout
	case EndRouteTimeout:
		// A young attempt did not have its time: earlier attempts used it up.
		if r.ShortDeadline || r.Age < r.Overdue {
			return Ignore
		}
		return Timeout
	default:
		return r.Ending.class()
	}
}

// awaited says that the attempt, ended by us, had been due.
func (r HTTPResult) awaited() bool {
	if r.Overdue <= 0 {
		return false
	}
	if r.HeadersSeen {
		return r.BodyStalled >= r.Overdue
	}
	return r.Age >= r.Overdue
}

// class is the meaning of the endings that need no more than their name.
func (e Ending) class() Class {
	switch e {
	case EndRefusedStream, EndEnhanceYourCalm:
		return Overload
	case EndConnectRefused, EndUnreachable, EndTLS, EndResetBeforeHeaders, EndConnectionLost:
		return Conn
	case EndConnectTimeout, EndPeerWait, EndPerTryTimeout, EndRouteTimeout, EndPingFailed, EndBodyIdle, EndFirstByteTimeout:
		return Timeout
	case EndBodyCut, EndBadFraming, EndStreamReset, EndGoAwayError, EndPeerClosedSilent:
		return Server
	default:
		// Our own limits and errnos, a client that left or does not read, a
		// stream cut off by its own maximum, a connection event that another
		// stream already paid for, a peer that closed an idle connection as we
		// wrote, a protocol downgrade, a stream above GOAWAY's last id.
		return Ignore
	}
}

// The gRPC status codes that mean something here
// (https://grpc.github.io/grpc/core/md_doc_statuscodes.html).
const (
	grpcOK                = 0
	grpcCancelled         = 1
	grpcUnknown           = 2
	grpcDeadlineExceeded  = 4
	grpcResourceExhausted = 8
	grpcInternal          = 13
	grpcUnavailable       = 14
	grpcDataLoss          = 15
	grpcUnauthenticated   = 16 // the last that is defined
)

// classifyAnswer reads a complete answer. What an inbound sidecar says of its
// application comes first: its own answer is only the form.
func classifyAnswer(r HTTPResult) Class {
	switch r.Origin {
	case OriginRefused, OriginReset:
		return Conn
	case OriginTimeout:
		return Timeout
	}
	if r.GRPC && (r.GRPCStatusSeen || r.Status == 200) {
		return classifyGRPC(r)
	}
	return classifyStatus(r.Status, r.RetryAfter)
}

func classifyGRPC(r HTTPResult) Class {
	if !r.GRPCStatusSeen {
		return Server // a gRPC answer without a status is no answer
	}
	if r.GRPCStatus < grpcOK || r.GRPCStatus > grpcUnauthenticated {
		return Server // clients take a code that nobody defined for UNKNOWN
	}
	switch r.GRPCStatus {
	case grpcResourceExhausted:
		return Overload
	case grpcUnavailable:
		if r.Pushback {
			return Overload
		}
		return Server
	case grpcDeadlineExceeded:
		if r.ShortDeadline {
			return Ignore
		}
		return Timeout
	case grpcCancelled: // nobody on our side asked for it: that would be EndClientAbort
		return Server
	case grpcUnknown, grpcInternal, grpcDataLoss:
		return Server
	default:
		return OK // the caller's own mistakes: NOT_FOUND, INVALID_ARGUMENT, …
	}
}

// The error codes of HTTP/2 that mean something here (RFC 9113 §7).
const (
	http2RefusedStream   = 0x7
	http2EnhanceYourCalm = 0xb
	http2HTTP11Required  = 0xd
)

// StreamReset is how an attempt ended whose stream the endpoint reset with an error
// code before END_STREAM. NO_ERROR and CANCEL are no exception: whoever takes them
// back owed an answer, unless the attempt's own side had asked for it.
func StreamReset(code uint32) Ending {
	switch code {
	case http2RefusedStream:
		return EndRefusedStream
	case http2EnhanceYourCalm:
		return EndEnhanceYourCalm
	case http2HTTP11Required:
		return EndHTTP11Required
	default:
		return EndStreamReset
	}
}

// classifyStatus reads an HTTP status (RFC 9110 §15).
func classifyStatus(status int, retryAfter bool) Class {
	switch {
	case status == 429, status == 503 && retryAfter:
		return Overload
	case status == 501, status == 505:
		return OK // it does not know the method or the version, and says so
	case status >= 100 && status < 500:
		return OK
	default:
		return Server // 5xx, and numbers that are no status
	}
}

// TCPResult is all that one connection of an opaque TCP proxy showed. It is
// decided once: at the connect failure, at the first byte of the server, or
// at the end without one. What happens after the first byte counts no more.
type TCPResult struct {
	Ending Ending
	// FirstByte says that the server sent a byte.
	FirstByte bool
	// ClientSent says that the client sent a byte.
	ClientSent bool
	// Age and Overdue as in [HTTPResult].
	Age, Overdue time.Duration
}

// Level is how deep the connection broke before its first byte, LevelNone if it did
// not.
func (r TCPResult) Level() Level {
	if r.FirstByte {
		return LevelNone
	}
	return r.Ending.Level()
}

// ClassifyTCP says what a proxied connection means for its endpoint.
func ClassifyTCP(r TCPResult) Class {
	if r.FirstByte {
		return OK
	}
	switch r.Ending {
	case EndConnectRefused, EndConnectTimeout, EndUnreachable, EndTLS, EndPeerWait, EndOwnErrno, EndLocalLimit, EndFirstByteTimeout:
		return r.Ending.class()
	case EndClientAbort, EndHedgeLoser:
		// Closed by the client. Without a deadline for the first byte silence
		// is the protocol's right, so nothing was due.
		return Ignore
	case EndMaxDuration, EndClientNotReading, EndPeerClosedUntouched:
		return Ignore
	default:
		// The server's end of the connection closed before any byte.
		if r.ClientSent {
			return Server
		}
		return Ignore
	}
}
