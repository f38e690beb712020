package zonetest

import "syscall"

// dieWithParent has a server killed when a test is.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
