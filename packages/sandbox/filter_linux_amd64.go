package sandbox

import "golang.org/x/sys/unix"

const (
	audited      = unix.AUDIT_ARCH_X86_64
	firstForeign = 0x40000000 // x32's numbers begin there
)

var refusedHere = []uint32{unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_USELIB, unix.SYS_USTAT, unix.SYS_SYSFS, unix.SYS_MODIFY_LDT}
