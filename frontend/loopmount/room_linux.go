package loopmount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Free returns how many blocks of the file system are free, and how large one is.
func (m *Mounted) Free() (blocks, size int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(m.Dir, &st); err != nil {
		return 0, 0, fmt.Errorf("free space of %s: %w", m.Dir, err)
	}
	return int64(st.Bfree), st.Bsize, nil
}

// Sync writes what the kernel has not written yet, which Unmount else does, for as long as it takes. No context ends that.
func (m *Mounted) Sync() error {
	dir, err := os.Open(m.Dir)
	if err == nil {
		err = errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close())
	}
	if err != nil {
		return fmt.Errorf("sync %s: %w", m.Dir, err)
	}
	return nil
}

// Reserve sets so many free blocks aside that nobody, root included, can use them: who
// writes more than the rest is told that there is no space. It holds until the file system is
// unmounted.
func (m *Mounted) Reserve(blocks int64) error {
	name := filepath.Join("/sys/fs/ext4", filepath.Base(m.Device), "reserved_clusters")
	if err := os.WriteFile(name, []byte(strconv.FormatInt(blocks, 10)), 0); err != nil {
		return fmt.Errorf("set %d blocks of %s aside: %w", blocks, m.Dir, err)
	}
	return nil
}
