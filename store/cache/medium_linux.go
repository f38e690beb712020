package cache

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// errUnclean is what a file system says of its own damage.
const errUnclean = syscall.EUCLEAN

// uncache makes the next reads of f come from the medium, and its pages no
// burden on memory. It is advice.
func uncache(f *os.File) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
