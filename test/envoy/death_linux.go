package envoy

import "syscall"

// parentDeath has the kernel end the child when the thread that started it ends.
func parentDeath() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
