package source

import (
	"os"

	"golang.org/x/sys/unix"
)

// widen makes a pipe take more at once, if the system allows it.
func widen(f *os.File) {
	if c, err := f.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, igzipPipe) })
	}
}

// confine bounds what igzip may do, should a layer find a way to take it over.
// It is a second wall: errors do not matter.
func confine(pid int) {
	const memory = 256 << 20 // bytes; it takes 4 MiB, and its libraries' address space
	for resource, limit := range map[int]uint64{
		unix.RLIMIT_AS: memory, unix.RLIMIT_CORE: 0, unix.RLIMIT_FSIZE: 0, unix.RLIMIT_NPROC: 0,
	} {
		_ = unix.Prlimit(pid, resource, &unix.Rlimit{Cur: limit, Max: limit}, nil)
	}
}
