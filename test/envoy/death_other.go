//go:build !linux

package envoy

import "syscall"

func parentDeath() *syscall.SysProcAttr { return nil }
