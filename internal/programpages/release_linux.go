package programpages

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Release has the kernel take the pages of the program's file out of this process. They
// stay in the page cache, from where the next touch maps them again, without reading the
// disk, unless the kernel needed the memory meanwhile, which it may take at any time anyway.
// It may be called from any goroutine, whatever the others do; a good time is when what was
// asked for has begun and nothing happens. Where there is no /proc it fails; on other
// systems than Linux it does nothing.
func Release() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("release the program's pages: %w", err)
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("release the program's pages: %w", err)
	}
	list, err := clean(f, program)
	_ = f.Close() // was read only
	if err != nil {
		return fmt.Errorf("release the program's pages: %w", err)
	}
	for _, m := range list {
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(m.from), uintptr(m.to-m.from), unix.MADV_DONTNEED)
		if errno != 0 {
			return fmt.Errorf("release the program's pages at %#x: %w", m.from, errno)
		}
	}
	return nil
}
