package outlier

import (
	"testing"
	"time"
)

func TestClassesOfHTTP(t *testing.T) {
	const due = 500 * time.Millisecond
	young, old := due-1, due
	status := func(code int) HTTPResult { return HTTPResult{Status: code, HeadersSeen: true, Overdue: due} }
	ended := func(e Ending, age time.Duration) HTTPResult {
		return HTTPResult{Ending: e, Age: age, Overdue: due}
	}
	grpc := func(code int) HTTPResult {
		r := status(200)
		r.GRPC, r.GRPCStatusSeen, r.GRPCStatus = true, true, code
		return r
	}
	with := func(r HTTPResult, edit func(*HTTPResult)) HTTPResult { edit(&r); return r }
	origin := func(o string) HTTPResult {
		return with(status(503), func(r *HTTPResult) { r.Origin = o })
	}
	for _, tt := range []struct {
		name string
		in   HTTPResult
		want Class
	}{
		{"100", status(100), OK},
		{"200", status(200), OK},
		{"304", status(304), OK},
		{"404", status(404), OK},
		{"499", status(499), OK},
		{"501 is an honest answer", status(501), OK},
		{"505 is an honest answer", status(505), OK},
		{"500", status(500), Server},
		{"502", status(502), Server},
		{"503", status(503), Server},
		{"504", status(504), Server},
		{"599", status(599), Server},
		{"600 is no status", status(600), Server},
		{"0 is no status", status(0), Server},
		{"429", status(429), Overload},
		{"503 with Retry-After", with(status(503), func(r *HTTPResult) { r.RetryAfter = true }), Overload},
		{"500 with Retry-After", with(status(500), func(r *HTTPResult) { r.RetryAfter = true }), Server},

		{"the application behind the sidecar refuses", origin(OriginRefused), Conn},
		{"the application resets", origin(OriginReset), Conn},
		{"the application is silent", origin(OriginTimeout), Timeout},
		{"an origin nobody knows", origin("app-tired"), Server},
		{"gRPC: the application refuses", with(grpc(14), func(r *HTTPResult) { r.Origin = OriginRefused }), Conn},

		{"connect refused", ended(EndConnectRefused, young), Conn},
		{"unreachable", ended(EndUnreachable, young), Conn},
		{"tls", ended(EndTLS, young), Conn},
		{"reset before headers", ended(EndResetBeforeHeaders, young), Conn},
		{"connection lost", ended(EndConnectionLost, young), Conn},
		{"keep-alive race", ended(EndKeepAliveRace, young), Ignore},

		{"connect timeout", ended(EndConnectTimeout, young), Timeout},
		{"peer wait", ended(EndPeerWait, young), Timeout},
		{"per-try timeout", ended(EndPerTryTimeout, young), Timeout},
		{"per-try timeout below the median", with(ended(EndPerTryTimeout, young), func(r *HTTPResult) { r.ShortDeadline = true }), Ignore},
		{"route timeout, due", ended(EndRouteTimeout, old), Timeout},
		{"route timeout, not due yet", ended(EndRouteTimeout, young), Ignore},
		{"route timeout below the median", with(ended(EndRouteTimeout, old), func(r *HTTPResult) { r.ShortDeadline = true }), Ignore},
		{"ping failed", ended(EndPingFailed, young), Timeout},
		{"body idle", with(status(200), func(r *HTTPResult) { r.Ending = EndBodyIdle }), Timeout},

		{"body cut", with(status(200), func(r *HTTPResult) { r.Ending = EndBodyCut }), Server},
		{"bad framing", ended(EndBadFraming, young), Server},
		{"stream reset", ended(EndStreamReset, young), Server},
		{"goaway error", ended(EndGoAwayError, young), Server},
		{"refused stream", ended(EndRefusedStream, young), Overload},
		{"enhance your calm", ended(EndEnhanceYourCalm, young), Overload},

		{"client left, not due", ended(EndClientAbort, young), Ignore},
		{"client left, due", ended(EndClientAbort, old), Censored},
		{"client left in a body that flows", with(ended(EndClientAbort, time.Hour), func(r *HTTPResult) { r.HeadersSeen = true }), Ignore},
		{"client left in a body that stalls", with(ended(EndClientAbort, time.Hour), func(r *HTTPResult) {
			r.HeadersSeen, r.BodyStalled = true, old
		}), Censored},
		{"client left after a 500", with(status(500), func(r *HTTPResult) { r.Ending = EndClientAbort }), Ignore},
		{"hedge loser, due", ended(EndHedgeLoser, old), Censored},
		{"hedge loser, not due", ended(EndHedgeLoser, young), Ignore},
		{"client left, nothing known to be due", HTTPResult{Ending: EndClientAbort, Age: time.Hour}, Ignore},

		{"own errno", ended(EndOwnErrno, old), Ignore},
		{"local limit", ended(EndLocalLimit, old), Ignore},
		{"client not reading", ended(EndClientNotReading, old), Ignore},
		{"max duration", ended(EndMaxDuration, old), Ignore},
		{"http/1.1 required", ended(EndHTTP11Required, old), Ignore},
		{"goaway unprocessed", ended(EndGoAwayUnprocessed, old), Ignore},
		{"another stream paid", ended(EndSharedConnection, old), Ignore},

		{"grpc ok", grpc(0), OK},
		{"grpc cancelled, unasked", grpc(1), Server},
		{"grpc unknown", grpc(2), Server},
		{"grpc invalid argument", grpc(3), OK},
		{"grpc deadline exceeded", grpc(4), Timeout},
		{"grpc deadline below the median", with(grpc(4), func(r *HTTPResult) { r.ShortDeadline = true }), Ignore},
		{"grpc not found", grpc(5), OK},
		{"grpc resource exhausted", grpc(8), Overload},
		{"grpc unimplemented", grpc(12), OK},
		{"grpc internal", grpc(13), Server},
		{"grpc unavailable", grpc(14), Server},
		{"grpc unavailable with pushback", with(grpc(14), func(r *HTTPResult) { r.Pushback = true }), Overload},
		{"grpc data loss", grpc(15), Server},
		{"grpc unauthenticated", grpc(16), OK},
		{"grpc aborted", grpc(10), OK},
		{"grpc status that nobody defined", grpc(17), Server},
		{"grpc status that is no number", grpc(-1), Server},
		{"grpc with http 502 and a status", with(grpc(5), func(r *HTTPResult) { r.Status = 502 }), OK},
		{"grpc stream reset after headers", with(grpc(0), func(r *HTTPResult) { r.Ending, r.GRPCStatusSeen = EndStreamReset, false }), Server},
		{"grpc resource exhausted with pushback", with(grpc(8), func(r *HTTPResult) { r.Pushback = true }), Overload},
		{"grpc internal with pushback", with(grpc(13), func(r *HTTPResult) { r.Pushback = true }), Server},
		{"grpc deadline of the application behind its sidecar", with(grpc(14), func(r *HTTPResult) { r.Origin = OriginTimeout }), Timeout},
		{"grpc without a status", with(grpc(0), func(r *HTTPResult) { r.GRPCStatusSeen = false }), Server},
		{"grpc with http 503 and no status", with(status(503), func(r *HTTPResult) { r.GRPC = true }), Server},
		{"grpc with http 429 and no status", with(status(429), func(r *HTTPResult) { r.GRPC = true }), Overload},
		{"grpc with http 404 and no status", with(status(404), func(r *HTTPResult) { r.GRPC = true }), OK},
	} {
		if got := ClassifyHTTP(tt.in); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// Every error code of HTTP/2, and one that is none.
func TestHTTP2ErrorCodes(t *testing.T) {
	for code := range uint32(0x10) {
		want := EndStreamReset
		switch code {
		case 0x7:
			want = EndRefusedStream
		case 0xb:
			want = EndEnhanceYourCalm
		case 0xd:
			want = EndHTTP11Required
		}
		if got := StreamReset(code); got != want {
			t.Errorf("RST_STREAM %#x: %v, want %v", code, got, want)
		}
	}
	for ending, want := range map[Ending]Class{
		StreamReset(0x0): Server, StreamReset(0x7): Overload, StreamReset(0x8): Server, StreamReset(0xb): Overload, StreamReset(0xd): Ignore,
	} {
		if got := ClassifyHTTP(HTTPResult{Ending: ending}); got != want {
			t.Errorf("%v: %v, want %v", ending, got, want)
		}
	}
}

func TestWhichAnswersAreAGateways(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   HTTPResult
		want bool
	}{
		{"500", HTTPResult{Status: 500}, false},
		{"502", HTTPResult{Status: 502}, true},
		{"503", HTTPResult{Status: 503}, true},
		{"504", HTTPResult{Status: 504}, true},
		{"505", HTTPResult{Status: 505}, false},
		{"a 502 that was cut", HTTPResult{Status: 502, Ending: EndBodyCut}, false},
		{"gRPC UNAVAILABLE", HTTPResult{Status: 200, GRPC: true, GRPCStatusSeen: true, GRPCStatus: 14}, true},
		{"gRPC INTERNAL", HTTPResult{Status: 200, GRPC: true, GRPCStatusSeen: true, GRPCStatus: 13}, false},
		{"gRPC with 503 and no status", HTTPResult{Status: 503, GRPC: true}, true},
	} {
		if got := tt.in.Gateway(); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.name, got, tt.want)
		}
	}
}

func TestClassesOfTCP(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   TCPResult
		want Class
	}{
		{"first byte", TCPResult{FirstByte: true, Ending: EndComplete}, OK},
		{"nothing counts after the first byte", TCPResult{FirstByte: true, Ending: EndBodyCut}, OK},
		{"connect refused", TCPResult{Ending: EndConnectRefused}, Conn},
		{"connect timeout", TCPResult{Ending: EndConnectTimeout}, Timeout},
		{"first byte timeout", TCPResult{Ending: EndFirstByteTimeout, ClientSent: true}, Timeout},
		{"closed silently on a client that had sent", TCPResult{Ending: EndPeerClosedSilent, ClientSent: true}, Server},
		{"reset on a client that had sent", TCPResult{Ending: EndResetBeforeHeaders, ClientSent: true}, Server},
		{"reset on a client that had not", TCPResult{Ending: EndResetBeforeHeaders}, Ignore},
		{"closed before anybody spoke", TCPResult{Ending: EndPeerClosedUntouched}, Ignore},
		{"client closed first", TCPResult{Ending: EndClientAbort, ClientSent: true, Age: time.Hour, Overdue: time.Second}, Ignore},
		{"own errno", TCPResult{Ending: EndOwnErrno}, Ignore},
		{"unreachable", TCPResult{Ending: EndUnreachable}, Conn},
		{"tls", TCPResult{Ending: EndTLS}, Conn},
		{"peer wait", TCPResult{Ending: EndPeerWait}, Timeout},
		{"our own limit", TCPResult{Ending: EndLocalLimit}, Ignore},
		{"maximum duration", TCPResult{Ending: EndMaxDuration, ClientSent: true}, Ignore},
		{"client that reads nothing", TCPResult{Ending: EndClientNotReading, ClientSent: true}, Ignore},
		{"closed silently before the client spoke", TCPResult{Ending: EndPeerClosedSilent}, Ignore},
	} {
		if got := ClassifyTCP(tt.in); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// Whoever adds an ending must say what it means: every one has a word, and
// none but the complete one leaves the decision to the status.
func TestEveryEndingHasAWordAndAMeaning(t *testing.T) {
	if got := len(endingNames); got != int(endingCount) {
		t.Fatalf("%d words for %d endings", got, endingCount)
	}
	for e := EndComplete + 1; e < endingCount; e++ {
		for _, code := range []int{200, 500} {
			r := HTTPResult{Ending: e, Status: code, HeadersSeen: true, Age: time.Minute, Overdue: time.Second, BodyStalled: time.Minute}
			other := r
			other.Status = 404
			if got, want := ClassifyHTTP(r), ClassifyHTTP(other); got != want {
				t.Errorf("%v: the class follows the status: %v, %v", e, got, want)
			}
		}
		broke := e == EndBodyCut || e == EndPeerClosedSilent || e == EndKeepAliveRace || ClassifyHTTP(HTTPResult{Ending: e}) == Conn
		if broke != (e.Level() != LevelNone) {
			t.Errorf("%v: broken %v, but its level is %v", e, broke, e.Level())
		}
	}
}

func TestTheLevelOfAHardFailureIsWhatAProbeMustReach(t *testing.T) {
	for _, tt := range []struct {
		in   HTTPResult
		want Level
	}{
		{HTTPResult{Ending: EndConnectRefused}, LevelConnect},
		{HTTPResult{Ending: EndTLS}, LevelTLS},
		{HTTPResult{Ending: EndResetBeforeHeaders}, LevelApp},
		{HTTPResult{Status: 503, Origin: OriginRefused}, LevelConnect},
		{HTTPResult{Status: 503, Origin: OriginReset}, LevelApp},
		{HTTPResult{Status: 503}, LevelNone},
		{HTTPResult{Ending: EndPerTryTimeout}, LevelNone},
	} {
		if got := tt.in.Level(); got != tt.want {
			t.Errorf("%v %q: level %v, want %v", tt.in.Ending, tt.in.Origin, got, tt.want)
		}
	}
}
