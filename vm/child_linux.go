package vm

import "syscall"

// childAttributes make a VMM end with this process, however that ends, and keep the
// terminal's signals from it: they are for the guest's process.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
