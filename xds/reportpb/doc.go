// Package reportpb is the wire form of reports. Everyone but xds/report should look
// at that package instead: it checks what arrives and speaks in the project's types.
package reportpb

// buf compiles the schema itself, so that generating needs no protoc; both plugins
// come in the versions that go.mod pins.
//go:generate go run github.com/bufbuild/buf/cmd/buf@v1.75.0 generate
