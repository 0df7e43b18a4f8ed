// Package report is both ends of the report stream, and its one codec.
//
// [Client] is the sidecar's end, [Collector] the control plane's. Both speak in the
// types of outlier/merge; the wire form is xds/reportpb and stays in here.
//
// # Model
//
// A sidecar keeps one stream open, beside its ADS stream on the same connection. It
// says who it is ([Hello]), gives every endpoint a short name on this stream, and
// from then on sends cumulative counters: a [Message] is built from the counters at
// the moment at which it can be sent, so that nothing old waits in a queue and a
// lost message costs delay and nothing else. Orders come back on the same stream.
//
// # Whom the collector believes
//
// A reporter is its xDS node id, and belongs to a principal: the TLS identity of the
// peer, else its IP address. There is one live stream per id; another principal
// cannot take it over, the same one can, with the same or a newer incarnation. A
// reporter may speak of endpoints of services that xDS has sent to its node, and at
// first hand of instances that the registry binds to it ([Authority]). What else it
// says has no effect: it is counted by reason ([Refusal]), logged once on a stream, and
// shown with the reporter ([Refusals]). Counters that run backwards or grow faster than
// any host can send are found by the table, which has those of before;
// [Stream.Reincarnate] then tells the reporter to come again with a new incarnation.
//
// A client of xDS that is no sidecar may report as well ([Hello].Observes). It knows a
// service by the target that it dials and an endpoint by its address; who is behind them
// the registry knows, and where another instance takes the address its counters begin
// anew.
//
// # Time
//
// Nobody compares wall clocks. A reporter stamps everything with its monotonic
// clock. The collector maps it to the table's clock by the smallest difference
// between receipt and stamp in the last 60 s of the stream: the message that came
// fastest tells best how far the clocks are apart. An old event in a message that
// had to wait is therefore still old. How much slower other messages came is
// the stream's jitter, and goes into the evidence.
//
// # Bounds
//
// A message is at most 1 MiB; 20 a second, 40 in a burst, and a stream that sends
// more is read more slowly, which holds its sender back by HTTP/2 flow control.
// 20 000 endpoints have names on one stream. A principal has at most 64 reporters.
// Orders wait in a ring of 256 in which the newest wins, those that describe a
// state (a lease, a share) once per endpoint. A send that blocks for two seconds
// ends the stream.
//
// # Recordings
//
// A [Recorder] keeps what a client tells in a file, as the messages of the wire under
// names of the file's own, each with a checksum; a [Recording] reads it. A file can be
// read without those before it: it begins with who records and all that was told until
// then. So does what follows a message that could not be written. The format is that
// of xds/reportpb/record.proto.
package report
