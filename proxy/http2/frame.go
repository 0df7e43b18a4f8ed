package http2

import (
	"encoding/binary"
	"fmt"
)

// frameType tells what a frame is (RFC 9113, section 6).
type frameType uint8

const (
	frameData frameType = iota
	frameHeaders
	framePriority
	frameReset
	frameSettings
	framePush
	framePing
	frameGoAway
	frameWindow
	frameContinuation
)

const (
	flagEndStream  = 0x01
	flagAck        = 0x01
	flagEndHeaders = 0x04
	flagPadded     = 0x08
	flagPriority   = 0x20

	frameHeader = 9
	// maxFrame is the longest payload that is taken: the least that a peer must
	// count on, and enough (RFC 9113, section 4.2).
	maxFrame = 16384

	maxWindow     = 1<<31 - 1
	initialWindow = 65535

	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

const (
	settingTableSize     = 0x1
	settingPush          = 0x2
	settingStreams       = 0x3
	settingInitialWindow = 0x4
	settingFrameSize     = 0x5
	settingListSize      = 0x6
	settingConnect       = 0x8 // RFC 8441, section 3
)

// code is an error code (RFC 9113, section 7).
type code uint32

const (
	codeNo code = iota
	codeProtocol
	codeInternal
	codeFlowControl
	codeSettingsTimeout
	codeStreamClosed
	codeFrameSize
	codeRefused
	codeCancel
	codeCompression
	codeConnect
	codeCalm
	codeSecurity
	codeHTTP11
)

// fault is a violation of the protocol. All of them are made once, so that hostile
// input costs no memory.
type fault struct {
	code code
	text string
}

func (f *fault) Error() string { return fmt.Sprintf("%s (error code %d)", f.text, f.code) }

var (
	errPreface      = &fault{codeProtocol, "no HTTP/2 preface"}
	errFrameSize    = &fault{codeFrameSize, "frame of a wrong size"}
	errNoSettings   = &fault{codeProtocol, "first frame is no SETTINGS"}
	errOlder        = &fault{codeProtocol, "the endpoint answered in HTTP/1.1: its cluster wants protocol http1"}
	errStreamZero   = &fault{codeProtocol, "frame on a stream that it does not belong on"}
	errPadding      = &fault{codeProtocol, "more padding than frame"}
	errContinuation = &fault{codeProtocol, "header block not continued"}
	errUnexpected   = &fault{codeProtocol, "CONTINUATION without HEADERS"}
	errIdle         = &fault{codeProtocol, "frame on an idle stream"}
	errStreamID     = &fault{codeProtocol, "stream number out of turn"}
	errPush         = &fault{codeProtocol, "push that is not allowed"}
	errSetting      = &fault{codeProtocol, "setting out of bounds"}
	errWindowSize   = &fault{codeFlowControl, "window out of bounds"}
	errWindowZero   = &fault{codeProtocol, "window update of zero"}
	errWindow       = &fault{codeFlowControl, "more data than the window allows"}
	errClosed       = &fault{codeStreamClosed, "frame on a closed stream"}
	errHeaderBlock  = &fault{codeCompression, "malformed header block"}
	errDependency   = &fault{codeProtocol, "stream depends on itself"}
	errBlockSize    = &fault{codeCalm, "header block too large"}
	errNuisance     = &fault{codeCalm, "too many frames to no purpose"}
	errResets       = &fault{codeCalm, "too many reset streams"}
	errNotReading   = &fault{codeCalm, "peer does not read"}
	errTrailers     = &fault{codeProtocol, "trailers that do not end the stream"}
)

func appendFrame(b []byte, n int, t frameType, flags uint8, id uint32) []byte {
	b = append(b, byte(n>>16), byte(n>>8), byte(n), byte(t), flags)
	return binary.BigEndian.AppendUint32(b, id)
}

func appendReset(b []byte, id uint32, c code) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, frameReset, 0, id), uint32(c))
}

func appendWindow(b []byte, id uint32, n uint32) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, frameWindow, 0, id), n)
}

func appendGoAway(b []byte, last uint32, c code) []byte {
	b = appendFrame(b, 8, frameGoAway, 0, 0)
	b = binary.BigEndian.AppendUint32(b, last)
	return binary.BigEndian.AppendUint32(b, uint32(c))
}

func appendPing(b []byte, flags uint8, data [8]byte) []byte {
	return append(appendFrame(b, 8, framePing, flags, 0), data[:]...)
}

func appendSetting(b []byte, id uint16, value uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, id), value)
}

// unpad takes the padding off a payload (RFC 9113, section 6.1).
func unpad(payload []byte, flags uint8) ([]byte, *fault) {
	if flags&flagPadded == 0 {
		return payload, nil
	}
	if len(payload) == 0 {
		return nil, errFrameSize
	}
	pad := int(payload[0])
	if pad >= len(payload) {
		return nil, errPadding
	}
	return payload[1 : len(payload)-pad], nil
}
