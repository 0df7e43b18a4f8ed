package report

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/xds/reportpb"
)

// A recording is this line and then frames: see record.proto. Another format has
// another number.
const (
	recordTitle = "overhear recording "
	recordMagic = recordTitle + "1\n"
)

const (
	// maxFrame bounds what a reader takes for a frame. A message on the wire is half
	// as long at most.
	maxFrame = 2 * maxMessage
	// checksumSize is what follows the Recorded of a frame.
	checksumSize = crc32.Size
)

// Reasons for which a recording cannot be read on.
var (
	// ErrNoRecording: the file is none.
	ErrNoRecording = errors.New("is no recording")
	// ErrOtherFormat: it is one of another version.
	ErrOtherFormat = errors.New("is no recording that this version can read")
	// ErrTruncated: the last frame is not whole, as a crash leaves it.
	ErrTruncated = errors.New("ends in the middle of a frame")
	// ErrDamaged: what is there was not written by a recorder.
	ErrDamaged = errors.New("is damaged")
)

// RecordError says where a recording cannot be read on. All before it was read.
type RecordError struct {
	File   string
	Offset int64 // of the frame that cannot be read
	Err    error // wraps one of the reasons above, or is what the reader said
}

func (e *RecordError) Error() string {
	return fmt.Sprintf("%s: offset %d: %v", e.File, e.Offset, e.Err)
}

func (e *RecordError) Unwrap() error { return e.Err }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendFrame adds a frame to b. It fails where a name is no UTF-8.
func appendFrame(b []byte, m *reportpb.Recorded) ([]byte, error) {
	whole := binary.AppendUvarint(b, uint64(proto.Size(m)))
	begin := len(whole)
	whole, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(whole, m)
	if err != nil {
		return b, err
	}
	return binary.LittleEndian.AppendUint32(whole, crc32.Checksum(whole[begin:], castagnoli)), nil
}

// frames reads the frames of one file.
type frames struct {
	name   string
	r      *bufio.Reader
	offset int64 // of the next frame
	buf    []byte
}

func newFrames(name string, r io.Reader) *frames {
	return &frames{name: name, r: bufio.NewReaderSize(r, 64<<10)}
}

func (f *frames) fail(reason error, format string, args ...any) error {
	return &RecordError{File: f.name, Offset: f.offset, Err: fmt.Errorf("%w: %s", reason, fmt.Sprintf(format, args...))}
}

// title reads the first line.
func (f *frames) title() error {
	have, err := f.r.Peek(len(recordMagic))
	switch {
	case string(have) == recordMagic:
		f.offset = int64(len(recordMagic))
		_, err = f.r.Discard(len(recordMagic))
		return err
	case err != nil && !errors.Is(err, io.EOF):
		return &RecordError{File: f.name, Err: err}
	case strings.HasPrefix(recordMagic, string(have)):
		return f.fail(ErrTruncated, "it has %d bytes of its first line", len(have))
	}
	if version, ok := strings.CutPrefix(string(have), recordTitle); ok {
		version, _, _ = strings.Cut(version, "\n")
		return f.fail(ErrOtherFormat, "its format is %q, want \"1\"", version)
	}
	return f.fail(ErrNoRecording, "it does not begin with %q", strings.TrimSpace(recordMagic))
}

// next reads a frame: the bytes of a Recorded, which are valid until the next call.
// io.EOF is the end of a whole recording.
func (f *frames) next() ([]byte, error) {
	size, width, err := f.length()
	if err != nil {
		return nil, err
	}
	if size == 0 || size > maxFrame {
		return nil, f.fail(ErrDamaged, "a frame of %d bytes is none", size)
	}
	want := int(size) + checksumSize
	if cap(f.buf) < want {
		f.buf = make([]byte, want)
	}
	f.buf = f.buf[:want]
	switch n, err := io.ReadFull(f.r, f.buf); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, f.fail(ErrTruncated, "it has %d of %d bytes", width+n, width+want)
	case err != nil:
		return nil, &RecordError{File: f.name, Offset: f.offset, Err: err}
	}
	body, sum := f.buf[:size], binary.LittleEndian.Uint32(f.buf[size:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return nil, f.fail(ErrDamaged, "checksum of a frame is %08x, want %08x", got, sum)
	}
	f.offset += int64(width + want)
	return body, nil
}

// length reads how long the next frame is, and how many bytes say so.
func (f *frames) length() (size uint64, width int, err error) {
	for shift := 0; ; shift += 7 {
		b, err := f.r.ReadByte()
		switch {
		case errors.Is(err, io.EOF) && width == 0:
			return 0, 0, io.EOF
		case errors.Is(err, io.EOF):
			return 0, 0, f.fail(ErrTruncated, "it has %d bytes of a length", width)
		case err != nil:
			return 0, 0, &RecordError{File: f.name, Offset: f.offset, Err: err}
		}
		width++
		size |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return size, width, nil
		}
		if width == 4 { // already beyond maxFrame
			return 0, 0, f.fail(ErrDamaged, "no length of a frame")
		}
	}
}
