package sandbox

import "golang.org/x/sys/unix"

const (
	audited      = unix.AUDIT_ARCH_AARCH64
	firstForeign = 0x40000000
)

var refusedHere = []uint32{unix.SYS_KEXEC_FILE_LOAD}
