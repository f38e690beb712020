//go:build !linux

package vm

import "syscall"

// childAttributes keep the terminal's signals from a VMM: they are for the guest's
// process.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
