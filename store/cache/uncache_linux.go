package cache

import (
	"os"

	"golang.org/x/sys/unix"
)

// uncache makes the next reads of f come from the medium, and its pages no
// burden on memory. It is advice.
func uncache(f *os.File) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
