package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var testLimits = limits{bytes: 64 << 10, fields: 100}

// seen is one message as a reader understood it.
type seen struct {
	Start    string // method, target and host, or the status
	Fields   []string
	Body     string
	Trailers []string
}

// readAll reads messages from a stream with this package's parser, as the proxy
// would: give returns the next bytes. It stops at the first problem, at the end of
// the stream, or after a message that ends the connection.
func readAll(give func() []byte, head func(buf []byte) (done bool, m *message, start string, b *body, p *problem)) (all []seen, _ *problem) {
	var buf []byte
	for {
		var m *message
		var s seen
		var b *body
		for {
			done, msg, start, bd, p := head(buf)
			if p != nil {
				return all, p
			}
			if done {
				m, b, s.Start = msg, bd, start
				break
			}
			more := give()
			if more == nil {
				return all, nil
			}
			buf = append(buf, more...)
		}
		for i := range m.fields {
			f := &m.fields[i]
			s.Fields = append(s.Fields, fmt.Sprintf("%s: %s", http.CanonicalHeaderKey(string(f.name.of(buf))), f.value.of(buf)))
		}
		rest := append([]byte(nil), buf[m.size:]...)
		for {
			data, used, p := b.take(rest, testLimits)
			s.Body += string(data)
			if p != nil {
				return all, p
			}
			rest = rest[used:]
			if b.done {
				break
			}
			more := give()
			if more == nil {
				if !b.closed() {
					return all, nil
				}
				break
			}
			rest = append(append([]byte(nil), rest...), more...)
		}
		for i := range b.trailer.fields {
			f := &b.trailer.fields[i]
			s.Trailers = append(s.Trailers, fmt.Sprintf("%s: %s", http.CanonicalHeaderKey(string(f.name.of(b.section))), f.value.of(b.section)))
		}
		all = append(all, s)
		if !m.persistent() || b.framing == untilClose {
			return all, nil
		}
		buf = append(buf[:0], rest...)
	}
}

// pieces gives a stream in pieces of n bytes.
func pieces(stream []byte, n int) func() []byte {
	return func() []byte {
		if len(stream) == 0 {
			return nil
		}
		k := min(n, len(stream))
		piece := stream[:k:k]
		stream = stream[k:]
		return piece
	}
}

func readRequests(stream []byte, n int) ([]seen, *problem) {
	var r request
	r.reset()
	var b body
	fresh := true
	return readAll(pieces(stream, n), func(buf []byte) (bool, *message, string, *body, *problem) {
		if fresh {
			r.reset()
			fresh = false
		}
		done, p := r.parse(buf, testLimits)
		if !done || p != nil {
			return done, nil, "", nil, p
		}
		fresh = true
		switch {
		case r.chunked:
			b.begin(inChunks, 0)
		case r.length > 0:
			b.begin(sized, r.length)
		default:
			b.begin(noBody, 0)
		}
		target := string(appendTarget(nil, &r, buf))
		return true, &r.message, fmt.Sprintf("%s %s %s", r.method.of(buf), target, r.authority.of(buf)), &b, nil
	})
}

func readResponses(stream []byte, n int, head bool) ([]seen, *problem) {
	var r response
	var b body
	fresh := true
	return readAll(pieces(stream, n), func(buf []byte) (bool, *message, string, *body, *problem) {
		if fresh {
			r.reset()
			fresh = false
		}
		done, p := r.parse(buf, testLimits)
		if !done || p != nil {
			return done, nil, "", nil, p
		}
		fresh = true
		switch {
		case r.bodiless(head):
			b.begin(noBody, 0)
		case r.chunked:
			b.begin(inChunks, 0)
		case r.length >= 0:
			b.begin(sized, r.length)
		default:
			b.begin(untilClose, 0)
		}
		return true, &r.message, fmt.Sprint(r.status), &b, nil
	})
}

func fieldsOf(h http.Header) map[string][]string {
	m := map[string][]string{}
	for k, v := range h {
		m[k] = v
	}
	return m
}

// oracleRequests reads a stream as net/http does.
func oracleRequests(stream []byte) (all []seen, headers []http.Header, _ error) {
	br := bufio.NewReader(bytes.NewReader(stream))
	for {
		// The one thing that this package takes and net/http does not, because RFC
		// 9112, section 2.2, asks for it.
		if start, err := br.Peek(2); err == nil && string(start) == crlf {
			_, _ = br.Discard(2)
		}
		req, err := http.ReadRequest(br)
		if err != nil {
			return all, headers, err
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return all, headers, err
		}
		target := req.RequestURI
		if n := len("http://"); len(target) > n && strings.EqualFold(target[:n], "http://") {
			target = strings.TrimPrefix(target[n:], req.URL.Host)
			switch {
			case target == "" && req.Method == http.MethodOptions:
				target = "*"
			case target == "" || target[0] == '?':
				target = "/" + target
			}
		}
		all = append(all, seen{Start: fmt.Sprintf("%s %s %s", req.Method, target, req.Host), Body: string(body)})
		headers = append(headers, req.Trailer)
		if req.Close {
			return all, headers, nil
		}
	}
}

func oracleResponses(stream []byte, head bool) (all []seen, _ error) {
	method := "GET"
	if head {
		method = "HEAD"
	}
	br := bufio.NewReader(bytes.NewReader(stream))
	for {
		resp, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			return all, err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return all, err
		}
		all = append(all, seen{Start: fmt.Sprint(resp.StatusCode), Body: string(body)})
		if resp.Close {
			return all, nil
		}
	}
}

// sameRequests checks that whatever this package takes, net/http takes too and
// reads the same, however the bytes are cut.
func sameRequests(t *testing.T, stream []byte) {
	t.Helper()
	ours, problem := readRequests(stream, len(stream)+1)
	for _, n := range []int{1, 7} {
		cut, cutProblem := readRequests(stream, n)
		if diff := cmp.Diff(ours, cut); diff != "" || problem != cutProblem {
			t.Fatalf("%q\nin pieces of %d: %v instead of %v (-whole +cut):\n%s", stream, n, cutProblem, problem, diff)
		}
	}
	theirs, trailers, err := oracleRequests(stream)
	if len(ours) > len(theirs) {
		t.Fatalf("%q\ntook %+v (then: %v)\nnet/http %+v (then: %v)", stream, ours, problem, theirs, err)
	}
	for i, m := range ours {
		if m.Start != theirs[i].Start || m.Body != theirs[i].Body {
			t.Fatalf("%q\nmessage %d: got %+v, net/http has %+v", stream, i, m, theirs[i])
		}
		n := 0
		for _, values := range trailers[i] {
			n += len(values)
		}
		if n < len(m.Trailers) {
			t.Fatalf("%q\ntrailers: got %q, net/http has %q", stream, m.Trailers, fieldsOf(trailers[i]))
		}
	}
}

func sameResponses(t *testing.T, stream []byte, head bool) {
	t.Helper()
	ours, problem := readResponses(stream, len(stream)+1, head)
	for _, n := range []int{1, 7} {
		cut, cutProblem := readResponses(stream, n, head)
		if diff := cmp.Diff(ours, cut); diff != "" || problem != cutProblem {
			t.Fatalf("%q\nin pieces of %d: %v instead of %v (-whole +cut):\n%s", stream, n, cutProblem, problem, diff)
		}
	}
	theirs, err := oracleResponses(stream, head)
	if len(ours) > len(theirs) {
		t.Fatalf("%q\ntook %+v (then: %v)\nnet/http %+v (then: %v)", stream, ours, problem, theirs, err)
	}
	for i, m := range ours {
		if m.Start != theirs[i].Start || m.Body != theirs[i].Body {
			t.Fatalf("%q\nmessage %d: got %+v, net/http has %+v", stream, i, m, theirs[i])
		}
	}
}

func TestRequestsReadAsNetHTTPReadsThem(t *testing.T) {
	for _, m := range requestCorpus {
		sameRequests(t, []byte(m.text))
	}
}

func TestResponsesReadAsNetHTTPReadsThem(t *testing.T) {
	for _, text := range responseCorpus {
		sameResponses(t, []byte(text), false)
		sameResponses(t, []byte(text), true)
	}
}

// requestCorpus are strange requests, with what becomes of them: the status of
// the refusal, 0 if it is taken.
var requestCorpus = []struct {
	name, text string
	status     int
}{
	{"plain", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0},
	{"empty line before", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 0},
	{"two empty lines before", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"pipelined", "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxGET /3 HTTP/1.1\r\nHost: a\r\n\r\n", 0},

	{"TLS", "\x16\x03\x01\x02\x00\x01\x00", 400},
	{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
	{"HTTP/0.9", "GET /\r\n\r\n", 400},
	{"HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505},
	{"HTTP/3.0", "GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505},
	{"version in lower case", "GET / http/1.1\r\nHost: a\r\n\r\n", 400},
	{"version with a plus", "GET / HTTP/+1.1\r\nHost: a\r\n\r\n", 400},
	{"version too long", "GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400},
	{"no version", "GET / \r\nHost: a\r\n\r\n", 400},
	{"two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"tab", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"space in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"trailing space", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400},
	{"leading space", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"strange method", "G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"lower-case method", "get / HTTP/1.1\r\nHost: a\r\n\r\n", 0},
	{"long method", strings.Repeat("A", 25) + " / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"control in the target", "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"raw UTF-8 in the target", "GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"fragment", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"bad escape", "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"cut escape", "GET /%a HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"percent in the query", "GET /?100% HTTP/1.1\r\nHost: a\r\n\r\n", 0},
	{"two slashes", "GET //b/c HTTP/1.1\r\nHost: a\r\n\r\n", 0},

	{"no path", "GET b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 0},
	{"asterisk without OPTIONS", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"absolute", "GET http://b:80/c?d HTTP/1.1\r\nHost: a\r\n\r\n", 0},
	{"absolute without path", "GET http://b?d HTTP/1.1\r\nHost: a\r\n\r\n", 0},
	{"absolute https", "GET https://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"absolute with user", "GET http://b@c/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"absolute with bad port", "GET http://b:8x/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"absolute without host", "GET http:///c HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"absolute without Host", "GET http://b/ HTTP/1.1\r\n\r\n", 400},
	{"CONNECT to a path", "CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"CONNECT without a port", "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"CONNECT with an empty port", "CONNECT a: HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"CONNECT with too large a port", "CONNECT a:65536 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"CONNECT to an address without a port", "CONNECT [::1] HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"CONNECT to a URL", "CONNECT http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"CONNECT to a user", "CONNECT u@a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"CONNECT with a length", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\n\r\nabc", 400},
	{"CONNECT in chunks", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	{"authority form", "GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 400},

	{"no Host", "GET / HTTP/1.1\r\n\r\n", 400},
	{"no Host in 1.0", "GET / HTTP/1.0\r\n\r\n", 0},
	{"two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400},
	{"two Hosts in 1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400},
	{"empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400},
	{"Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
	{"Host with user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400},
	{"Host with space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
	{"Host with two ports", "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", 400},
	{"Host list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400},
	{"IPv6", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 0},
	{"IPv6 unclosed", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400},
	{"bracket inside", "GET / HTTP/1.1\r\nHost: a[b]\r\n\r\n", 400},

	{"lone LF", "GET / HTTP/1.1\nHost: a\n\n", 400},
	{"lone LF in the fields", "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400},
	{"lone LF at the end", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400},
	{"lone CR", "GET / HTTP/1.1\r\nHost: a\r\nX: b\rY: c\r\n\r\n", 400},
	{"CR CR LF", "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", 400},
	{"NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", 400},
	{"NUL in a name", "GET / HTTP/1.1\r\nHost: a\r\nX\x00: a\r\n\r\n", 400},
	{"DEL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", 400},
	{"obs-text in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: \xe4\r\n\r\n", 0},
	{"space before the colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400},
	{"tab before the colon", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length\t: 5\r\n\r\n", 400},
	{"no colon", "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400},
	{"no name", "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400},
	{"fold", "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400},
	{"fold of the first line", "GET / HTTP/1.1\r\n Host: a\r\nHost: b\r\n\r\n", 400},
	{"quote in a name", "GET / HTTP/1.1\r\nHost: a\r\n\"X\": b\r\n\r\n", 400},

	{"length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", 0},
	{"length with zeros", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 002\r\n\r\nab", 0},
	{"length with a sign", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +2\r\n\r\nab", 400},
	{"negative length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -2\r\n\r\nab", 400},
	{"hexadecimal length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x2\r\n\r\nab", 400},
	{"length with a space", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 2\r\n\r\nab", 400},
	{"empty length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nab", 400},
	{"list of lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2, 2\r\n\r\nab", 400},
	{"equal lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab", 400},
	{"different lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\ncontent-length: 3\r\n\r\nabc", 400},
	{"length that overflows", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551618\r\n\r\nab", 400},

	{"length and coding", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	{"coding and length", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400},
	{"two codings", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	{"coding then identity", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400},
	{"identity", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 400},
	{"xchunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400},
	{"chunked in quotes", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 400},
	{"chunked with a parameter", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 400},
	{"chunked with a vertical tab", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400},
	{"chunked, identity", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400},
	{"chunked, comma", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", 400},
	{"gzip, chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
	{"empty coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", 400},
	{"capital chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n", 0},
	{"chunked in 1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},

	{"chunks", chunkedPost + "3\r\nabc\r\n0\r\n\r\n", 0},
	{"chunks with extensions", chunkedPost + "3;a=b;c=\"d;e\"\r\nabc\r\n0;x\r\n\r\n", 0},
	{"chunks with trailers", chunkedPost + "3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n", 0},
	{"LF after a size (CVE-2025-22871)", chunkedPost + "3\nabc\r\n0\r\n\r\n", 400},
	{"LF in an extension (CVE-2025-55315)", chunkedPost + "3;a\nabc\r\n0\r\n\r\n", 400},
	{"CR in an extension (CVE-2025-55315)", chunkedPost + "3;a\rb\r\nabc\r\n0\r\n\r\n", 400},
	{"NUL in an extension", chunkedPost + "3;\x00\r\nabc\r\n0\r\n\r\n", 400},
	{"space after a size", chunkedPost + "3 \r\nabc\r\n0\r\n\r\n", 400},
	{"space before a size", chunkedPost + " 3\r\nabc\r\n0\r\n\r\n", 400},
	{"prefixed size", chunkedPost + "0x3\r\nabc\r\n0\r\n\r\n", 400},
	{"signed size", chunkedPost + "+3\r\nabc\r\n0\r\n\r\n", 400},
	{"no size", chunkedPost + "\r\nabc\r\n0\r\n\r\n", 400},
	{"only an extension", chunkedPost + ";a\r\nabc\r\n0\r\n\r\n", 400},
	{"size that overflows", chunkedPost + "10000000000000003\r\nabc\r\n0\r\n\r\n", 400},
	{"too long a chunk", chunkedPost + "3\r\nabcd\r\n0\r\n\r\n", 400},
	{"LF after a chunk", chunkedPost + "3\r\nabc\n0\r\n\r\n", 400},
	{"lone LF at the end of the trailers", chunkedPost + "0\r\n\n", 400},
	{"length in the trailers", chunkedPost + "0\r\nContent-Length: 3\r\n\r\n", 400},
	{"Host in the trailers", chunkedPost + "0\r\nHost: b\r\n\r\n", 400},
	{"folded trailer", chunkedPost + "0\r\nX: b\r\n c\r\n\r\n", 400},
	{"forbidden trailer announced", "POST / HTTP/1.1\r\nHost: a\r\nTrailer: Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	{"long extension", chunkedPost + "1;" + strings.Repeat("a", 2000) + "\r\nx\r\n0\r\n\r\n", 400},
	{"many extensions", chunkedPost + strings.Repeat("1;"+strings.Repeat("a", 1000)+"\r\nx\r\n", 20) + "0\r\n\r\n", 400},

	{"GET with a body", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", 0},
	{"expectation", "POST / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\nContent-Length: 0\r\n\r\n", 417},
	{"Connection with a strange option", "GET / HTTP/1.1\r\nHost: a\r\nConnection: a b\r\n\r\n", 400},
	{"Connection naming too much", "GET / HTTP/1.1\r\nHost: a\r\nConnection: a" + strings.Repeat(",b", 16) + "\r\n\r\n", 400},
	{"Upgrade that is not allowed", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 0},
	{"Upgrade that Connection does not name", "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", 0},

	{"too many fields", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 100) + "\r\n", 431},
	{"as many fields as allowed", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 99) + "\r\n", 0},
	{"too large a head", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("y", 64<<10) + "\r\n\r\n", 431},
	{"too large a target", "GET /" + strings.Repeat("y", 64<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n", 431},
	{"nearly too large a head", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("y", 63<<10) + "\r\n\r\n", 0},
}

const chunkedPost = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

func TestStrangeRequests(t *testing.T) {
	for _, tt := range requestCorpus {
		_, p := readRequests([]byte(tt.text), 1<<20)
		status := 0
		if p != nil {
			status = p.status
		}
		if status != tt.status {
			t.Errorf("%s: got %d (%v), want %d", tt.name, status, p, tt.status)
		}
	}
}

// responseCorpus are strange responses; TestAMalformedAnswerIsABadGateway has
// those that are refused.
var responseCorpus = []string{
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 Very  well\t!\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.0 200 OK\r\n\r\nall",
	"HTTP/1.1 200 OK\r\n\r\nall",
	"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nok\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ncut",
	"\r\nHTTP/1.1 200 OK\r\n\r\n",
	"HTTP/1.1  200 OK\r\n\r\n",
	"HTTP/1.1 2000 OK\r\n\r\n",
	"HTTP/1.1 +20 OK\r\n\r\n",
	"ICY 200 OK\r\n\r\n",
}

func TestChunksComeOutAsTheyWentIn(t *testing.T) {
	for _, sizes := range [][]int{{0}, {1}, {15, 16, 17}, {255, 256, 4096}} {
		var encoded []byte
		var want []byte
		for _, n := range sizes {
			data := bytes.Repeat([]byte{byte(n)}, n)
			want = append(want, data...)
			var tail []byte
			encoded, tail = frameChunk(encoded, data, &body{})
			if n > 0 {
				encoded = append(append(encoded, data...), tail...)
			}
		}
		encoded, tail := frameChunk(encoded, nil, &body{done: true})
		encoded = append(encoded, tail...)
		got, p := readRequests(append([]byte(chunkedPost), encoded...), 3)
		if p != nil || len(got) != 1 || got[0].Body != string(want) {
			t.Errorf("%v: got %d messages, %v, want the body back", sizes, len(got), p)
		}
	}
}

func FuzzRequests(f *testing.F) {
	for _, m := range requestCorpus {
		if len(m.text) < 1<<10 {
			f.Add([]byte(m.text))
		}
	}
	f.Fuzz(func(t *testing.T, stream []byte) { sameRequests(t, stream) })
}

func FuzzResponses(f *testing.F) {
	for _, text := range responseCorpus {
		f.Add([]byte(text), false)
	}
	f.Fuzz(func(t *testing.T, stream []byte, head bool) { sameResponses(t, stream, head) })
}

func FuzzChunks(f *testing.F) {
	for _, m := range requestCorpus {
		if text, ok := strings.CutPrefix(m.text, chunkedPost); ok && len(text) < 1<<10 {
			f.Add([]byte(text))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) { sameRequests(t, append([]byte(chunkedPost), text...)) })
}
