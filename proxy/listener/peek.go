package listener

import (
	"bytes"
	"net"
	"time"
)

// maxPeek is how much of a first request is looked at for its host.
const maxPeek = 8 << 10

// Peek is Detect, and tells for which host the first request of HTTP/1 asks; "": it
// does not say within maxPeek bytes, or within timeout. The connection that it returns
// begins with the first byte.
func Peek(c net.Conn, timeout time.Duration) (spoken Spoken, host string, _ net.Conn, err error) {
	end := time.Now().Add(timeout)
	spoken, c, err = Detect(c, timeout)
	if err != nil || spoken != HTTP1 {
		return spoken, "", c, err
	}
	again := c.(interface{ unread(p []byte) }) // something has been read of it
	_ = c.SetReadDeadline(end)                 // of a connection that has ended: whoever serves it finds out
	var head []byte
	for len(head) < maxPeek && !bytes.Contains(head, []byte("\r\n\r\n")) {
		var more [1 << 10]byte
		n, err := c.Read(more[:])
		head = append(head, more[:n]...)
		if err != nil {
			break
		}
	}
	again.unread(head)
	_ = c.SetReadDeadline(time.Time{})
	return spoken, hostOf(head), c, nil
}

// hostOf finds the host in the head of a request: in its target, if that has one, or
// in its Host field (RFC 9112, section 3.2).
func hostOf(head []byte) string {
	line, fields, _ := bytes.Cut(head, []byte("\r\n"))
	method, rest, _ := bytes.Cut(line, []byte(" "))
	target, _, _ := bytes.Cut(rest, []byte(" "))
	if string(method) == "CONNECT" {
		return string(target)
	}
	if _, after, absolute := bytes.Cut(target, []byte("://")); absolute && target[0] != '/' {
		authority, _, _ := bytes.Cut(after, []byte("/"))
		return string(authority)
	}
	for line := range bytes.SplitSeq(fields, []byte("\r\n")) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("host")) {
			return string(bytes.Trim(value, " \t"))
		}
	}
	return ""
}
