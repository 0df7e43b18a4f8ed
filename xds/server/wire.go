package server

import (
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Field numbers of envoy.service.discovery.v3 and google.protobuf.Any.
const (
	fieldResources       = 2 // of DiscoveryResponse, of DeltaDiscoveryResponse
	fieldResourceVersion = 1 // of Resource
	fieldResourceAny     = 2
	fieldResourceName    = 3
	fieldAnyURL          = 1
	fieldAnyValue        = 2
)

// wire encodes the field resources of both variants of a response. In state of the world
// it is an Any; in delta a Resource, which has that Any in a field of the same number, so
// that with it in the last place the one is the end of the other.
func wire(name, version, url string, value []byte) (delta, sotw mem.Buffer) {
	anySize := size(fieldAnyURL, len(url)) + size(fieldAnyValue, len(value))
	sotwSize := size(fieldResourceAny, anySize)
	resourceSize := size(fieldResourceName, len(name)) + size(fieldResourceVersion, len(version)) + sotwSize
	all := make([]byte, 0, size(fieldResources, resourceSize))
	all = head(all, fieldResources, resourceSize)
	all = append(head(all, fieldResourceName, len(name)), name...)
	all = append(head(all, fieldResourceVersion, len(version)), version...)
	all = head(all, fieldResourceAny, anySize)
	all = append(head(all, fieldAnyURL, len(url)), url...)
	all = append(head(all, fieldAnyValue, len(value)), value...)
	return mem.SliceBuffer(all), mem.SliceBuffer(all[len(all)-sotwSize:])
}

// size of a field of that many bytes.
func size(field protowire.Number, n int) int {
	return protowire.SizeTag(field) + protowire.SizeBytes(n)
}

// head begins a field of that many bytes.
func head(b []byte, field protowire.Number, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.BytesType), uint64(n))
}

// response is a message on its way to one stream: the little that is the stream's own, and
// resources that it shares with all who are sent them.
type response struct {
	own       proto.Message // without resources
	resources mem.BufferSlice
}

// codec is gRPC's own, and puts responses together without copying resources.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(protocodec.Name)} }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	r, ok := v.(*response)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	own, err := c.CodecV2.Marshal(r.own)
	if err != nil {
		return nil, err
	}
	// Fields may come in any order, also those of a list between others.
	return append(own, r.resources...), nil
}
