package http2

import (
	"strconv"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/router"
)

// ending is what the loss means for an attempt, and what for the question whether it
// is repeated. The first to ask is charged.
func (l *loss) ending(headed bool) (ending, retry outlier.Ending) {
	switch l.cause {
	case causeFault:
		ending = outlier.EndBadFraming
	case causePing:
		ending = outlier.EndPingFailed
	case causeStopped:
		return outlier.EndLocalLimit, outlier.EndLocalLimit
	case causeGoAway:
		ending = outlier.EndGoAwayError
	case causeCalm:
		ending = outlier.EndEnhanceYourCalm
	default:
		switch {
		case l.clean:
			return outlier.EndGoAwayUnprocessed, outlier.EndGoAwayUnprocessed
		case headed:
			ending = outlier.EndBodyCut
		case l.race:
			return outlier.EndKeepAliveRace, outlier.EndKeepAliveRace
		default:
			ending = outlier.EndConnectionLost
		}
	}
	retry = ending
	switch {
	case l.clean:
		retry = outlier.EndGoAwayUnprocessed
	case ending == outlier.EndConnectionLost:
		retry = outlier.EndResetBeforeHeaders // nobody knows what was processed
	}
	if l.charged {
		ending = outlier.EndSharedConnection
	}
	l.charged = true
	return ending, retry
}

// badAnswer ends an attempt whose answer is malformed.
func (x *relay) badAnswer(b *batch, f *fault) {
	x.conn.srv.deps.Metrics.BadAnswers.Add(1)
	x.Record.Detail = f.text
	x.dropUp(b, codeProtocol)
	x.failed(b, outlier.EndBadFraming, exchange.Failure{Ending: outlier.EndBadFraming, Replayable: x.keep})
}

// blame ends a request that is malformed.
func (x *relay) blame(b *batch, f *fault) {
	x.conn.srv.deps.Metrics.Malformed.Add(1)
	x.Record.Detail = f.text
	x.conn.link.reset(b, &x.down, f.code)
	x.abort(b, outlier.EndClientAbort, exchange.DownstreamProtocolError)
}

// failed ends an attempt that did not bring a whole answer.
func (x *relay) failed(b *batch, ending outlier.Ending, f exchange.Failure) {
	x.end(b, ending)
	x.dropUp(b, codeCancel)
	switch {
	case x.answered:
		x.cut(b, ending)
		return
	case x.Hedge.Runs():
		x.promote(b)
		return
	}
	if next, decision := x.Again(&x.conn.srv.deps, b.now, f); next != nil {
		x.next(b, next, decision)
		return
	}
	x.replyFailed(b, ending)
}

// cut ends an exchange in the middle of the answer, in a way that cannot be taken
// for its end.
func (x *relay) cut(b *batch, ending outlier.Ending) {
	x.Record.Flags |= exchange.FlagsOf(ending)
	if x.streams() {
		x.cutGRPC(b, ending)
		return
	}
	x.conn.link.reset(b, &x.down, codeInternal)
	x.finish(b)
}

// cutGRPC says in trailers what was the matter: of a reset the caller would learn only
// that it was one.
func (x *relay) cutGRPC(b *batch, ending outlier.Ending) {
	status, text, _ := x.Failed(&x.conn.srv.deps, ending)
	code := exchange.GRPCStatus(status)
	// For the ends of streams gRPC has a table of its own
	// (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#errors).
	switch {
	case ending == outlier.EndEnhanceYourCalm:
		code = exchange.GRPCResourceLimit
	case ending != outlier.EndStreamReset:
	case x.resetBy == codeCancel:
		code = exchange.GRPCCancelled
	case x.resetBy == codeSecurity:
		code = exchange.GRPCPermissionDenied
	default:
		code = exchange.GRPCInternal
	}
	x.Answer.GRPCSeen, x.Answer.GRPCStatus = true, code
	x.conn.link.sendHead(b, &x.down, true, func(e *encoder) {
		e.field("grpc-status", strconv.Itoa(code))
		e.literal("grpc-message", exchange.GRPCMessage(text))
	})
	x.finish(b)
}

// expire ends a request whose time is up.
func (x *relay) expire(b *batch, ending outlier.Ending) {
	x.second.drop(b, ending)
	x.end(b, ending)
	x.dropUp(b, codeCancel)
	if x.answered {
		x.cut(b, ending)
		return
	}
	x.replyFailed(b, ending)
}

// abort ends an exchange that nobody waits for any more.
func (x *relay) abort(b *batch, ending outlier.Ending, flags exchange.Flags) {
	x.Record.Flags |= flags
	x.second.drop(b, ending)
	x.end(b, ending)
	x.finish(b)
}

// endWhole tells that the attempt brought a whole answer. A gRPC server that ends a call
// because the caller's deadline has passed knows no more than our own timer, and is
// only sooner: it is judged by how long it had owed something.
func (x *relay) endWhole(b *batch, owed time.Duration) {
	ending := outlier.EndComplete
	if x.Answer.GRPCSeen && x.Answer.GRPCStatus == exchange.GRPCDeadlineExceeded && b.now >= x.callerAt {
		ending = outlier.EndRouteTimeout
	}
	x.endOwing(b, ending, owed)
}

// end tells what came of the attempt, if it has not been told.
func (x *relay) end(b *batch, ending outlier.Ending) { x.endOwing(b, ending, x.owed(b.now)) }

func (x *relay) endOwing(b *batch, ending outlier.Ending, owed time.Duration) {
	x.unwait()
	if x.Attempt.Ended() {
		return
	}
	var hash uint32
	if x.up.id != 0 {
		hash = x.up.link.hash
	}
	x.End(&x.conn.srv.deps, b.now, exchange.Ended{Ending: ending, Owed: owed, Conn: hash})
}

// owed is for how long the endpoint has owed something: an answer, or the rest of
// one. While the client still has to send, nothing is due.
func (x *relay) owed(now time.Duration) time.Duration {
	switch {
	case x.Headed && len(x.resp) > 0:
		return 0 // it is the client that stands still
	case x.Headed:
		return max(0, now-x.moved)
	case x.whole:
		return now - x.Begun
	}
	return 0
}

// dropUp ends the attempt's stream.
func (x *relay) dropUp(b *batch, c code) {
	if x.up.id == 0 {
		return
	}
	// What the client will not get has been used up all the same.
	x.up.link.used(b, &x.up, x.up.id, len(x.resp))
	x.resp = x.resp[:0]
	x.up.link.reset(b, &x.up, c)
	x.up.id = 0
}

// replyFailed answers for an attempt that did not.
func (x *relay) replyFailed(b *batch, ending outlier.Ending) {
	flags := exchange.FlagsOf(ending)
	if len(x.Record.Attempts) > 1 {
		flags |= exchange.RetriesExhausted
	}
	status, text, origin := x.Failed(&x.conn.srv.deps, ending)
	x.reply(b, status, flags, text, origin)
}

// reply answers in place of an endpoint.
func (x *relay) reply(b *batch, status int, flags exchange.Flags, text, origin string) {
	x.refuseFrom(b, &exchange.Refusal{Status: status, Flags: flags, Text: text}, origin)
}

// refuse answers as the rules want it.
func (x *relay) refuse(b *batch, r *exchange.Refusal) { x.refuseFrom(b, r, "") }

func (x *relay) refuseFrom(b *batch, r *exchange.Refusal, origin string) {
	status, text := r.Status, r.Text
	x.Record.Flags |= r.Flags
	if x.Record.Detail == "" && !r.Asked {
		x.Record.Detail = text
	}
	x.Headed = false // whatever an attempt has brought is not the answer
	x.answered, x.respEnd, x.hasTail = true, true, false
	x.resp = x.resp[:0]
	if x.GRPC {
		code := r.GRPCStatus()
		x.Record.Status, x.Record.GRPCStatus = 200, code
		x.conn.link.sendHead(b, &x.down, true, func(e *encoder) {
			e.status(200)
			e.field("content-type", "application/grpc")
			e.field("grpc-status", strconv.Itoa(code))
			e.literal("grpc-message", exchange.GRPCMessage(text))
			x.encodeOrigin(e, origin)
		})
		x.finish(b)
		return
	}
	x.Record.Status = status
	who, ending := "overhear: ", "\n"
	switch {
	case r.Location != "":
		who, text, ending = "", "", ""
	case r.Asked:
		who, ending = "", ""
	}
	empty := x.req.method == "HEAD" || len(who)+len(text)+len(ending) == 0 || status == 204 || status == 304
	x.conn.link.sendHead(b, &x.down, empty, func(e *encoder) {
		e.status(status)
		var edit *router.FieldEdit
		if r.Asked || r.Location != "" {
			edit = x.ResponseEdit()
			encodePairs(e, edit)
		}
		if r.Location != "" {
			e.literal("location", r.Location)
		} else if !edit.Drops([]byte("content-type")) {
			e.field("content-type", "text/plain; charset=utf-8")
		}
		if status != 204 {
			e.number("content-length", int64(len(who)+len(text)+len(ending)))
		}
		e.literal("date", x.conn.srv.date(b.now))
		x.encodeOrigin(e, origin)
	})
	if empty {
		x.finish(b)
		return
	}
	x.up.id = 0
	x.resp = append(append(append(x.resp, who...), text...), ending...)
	x.pushAnswer(b)
}

// finish is the end of the exchange, whatever its course.
func (x *relay) finish(b *batch) {
	if x.dead {
		return
	}
	// Attempts have ended, or should have.
	x.second.drop(b, outlier.EndLocalLimit)
	x.dead = true
	x.end(b, outlier.EndLocalLimit)
	x.dropUp(b, codeCancel)
	if n := x.base + int64(len(x.body)) - x.granted; n > 0 {
		x.conn.link.used(b, nil, 0, int(n))
	}
	// An answer that is complete before the request asks for no more of it (RFC 9113,
	// section 8.1).
	x.conn.link.reset(b, &x.down, codeNo)
	x.down.id = 0
	x.Leave(b.now)
	x.Account(&x.conn.srv.deps, b.now)
}
