//go:build !linux

package proxy

import (
	"errors"
	"net"
)

func marking(uint32) (*net.Dialer, error) {
	return nil, errors.New("mark: only Linux has marks: want none here")
}
