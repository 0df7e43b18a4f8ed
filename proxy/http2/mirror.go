package http2

import (
	"strconv"

	"golang.org/x/net/http2/hpack"
)

// mirror has a copy of the request sent, if all of it has been kept.
func (x *relay) mirror() {
	if !x.keep || x.base > 0 || x.trailers != nil || x.req.connect {
		return
	}
	x.Copy(&x.conn.srv.deps, x.plain(), x.body, nil)
}

// plain is the head for the endpoint in HTTP/1.1, in which copies are made.
func (x *relay) plain() []byte {
	// What the endpoint gets is decided where it is encoded. To decode that costs
	// little beside a copy, and there is no second place to decide it.
	var e encoder
	e.init()
	x.encodeRequest(&e, &x.Try)
	fields, err := hpack.NewDecoder(tableSize, nil).DecodeFull(e.block())
	if err != nil {
		panic("http2: our own header block: " + err.Error())
	}
	var method, path, host, cookies string
	var rest []byte
	for _, f := range fields {
		switch f.Name {
		case ":method":
			method = f.Value
		case ":path":
			path = f.Value
		case ":authority":
			host = f.Value
		case ":scheme", "content-length":
		case "cookie": // crumbs are one field (RFC 9113, section 8.2.3)
			if cookies != "" {
				cookies += "; "
			}
			cookies += f.Value
		case "te":
			rest = appendField(appendField(rest, f.Name, f.Value), "connection", f.Name)
		default:
			rest = appendField(rest, f.Name, f.Value)
		}
	}
	head := append([]byte(method), ' ')
	head = append(append(head, path...), " HTTP/1.1\r\n"...)
	head = append(appendField(head, "host", host), rest...)
	if cookies != "" {
		head = appendField(head, "cookie", cookies)
	}
	if x.HasBody {
		head = appendField(head, "content-length", strconv.Itoa(len(x.body)))
	}
	return append(head, "\r\n"...)
}
