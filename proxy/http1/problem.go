package http1

// problem is why a message is refused. All of them are made once, so that
// hostile input costs no memory.
type problem struct {
	status int    // of the answer, if the message was a request
	text   string // for the answer's body and for the access record
}

func (p *problem) Error() string { return p.text }

var (
	errStartLine     = &problem{400, "malformed start line"}
	errMethod        = &problem{400, "malformed method"}
	errTarget        = &problem{400, "malformed request target"}
	errVersion       = &problem{505, "unsupported protocol version"}
	errLineEnd       = &problem{400, "line not ended by CR LF"}
	errControl       = &problem{400, "forbidden character in a header field"}
	errFieldName     = &problem{400, "malformed header field name"}
	errFold          = &problem{400, "folded header field"}
	errTooLarge      = &problem{431, "header section too large"}
	errTooMany       = &problem{431, "too many header fields"}
	errHostMissing   = &problem{400, "no Host"}
	errHostRepeated  = &problem{400, "more than one Host"}
	errHost          = &problem{400, "malformed Host"}
	errLength        = &problem{400, "malformed Content-Length"}
	errLengthTwice   = &problem{400, "more than one Content-Length"}
	errCodingTwice   = &problem{400, "more than one Transfer-Encoding"}
	errLengthCoding  = &problem{400, "Content-Length together with Transfer-Encoding"}
	errCoding        = &problem{400, "malformed Transfer-Encoding"}
	errCodingUnknown = &problem{501, "unsupported Transfer-Encoding"}
	errCodingVersion = &problem{400, "Transfer-Encoding in an HTTP/1.0 message"}
	errConnection    = &problem{400, "malformed Connection"}
	errExpect        = &problem{417, "unsupported expectation"}
	errConnectBody   = &problem{400, "CONNECT with a body"}
	errChunkSize     = &problem{400, "malformed chunk size"}
	errChunkExt      = &problem{400, "malformed chunk extension"}
	errChunkEnd      = &problem{400, "chunk not ended by CR LF"}
	errTrailer       = &problem{400, "forbidden trailer field"}
	errStatus        = &problem{502, "malformed status"}
	errSwitching     = &problem{502, "unasked 101"}
	errInterim       = &problem{502, "too many interim responses"}
)

var errHeadTimeout = &problem{408, "the request's head did not come in time"}
