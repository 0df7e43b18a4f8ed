// Package policypb is the wire form of a cluster's policy: policy.proto and what
// is generated from it. Package resource turns it into checked values.
package policypb

//go:generate go run github.com/bufbuild/buf/cmd/buf@v1.75.0 generate
