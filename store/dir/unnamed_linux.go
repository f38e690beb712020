package dir

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	directAlign = 4096     // bytes: what devices ask of memory, offset and length
	directWorth = 64 << 10 // bytes from which a file is worth a buffer
)

// An unnamedFile has no name before it is placed, so that a killed process leaves nothing
// behind, and is written past the page cache: who puts a chunk does not read it again.
// Making, filling, writing back and dropping its pages, and a name for a
// while, cost more than all else that is done with the file.
type unnamedFile struct {
	*os.File
	dir string
}

// createUnnamed returns nil where a file of that size is better made, or can only be
// made, in the ordinary way.
func createUnnamed(dir string, size int) file {
	if size < directWorth || !namesDescriptors() {
		return nil
	}
	f, err := os.OpenFile(dir, os.O_WRONLY|unix.O_TMPFILE|unix.O_DIRECT, 0o666)
	if err != nil {
		return nil // it may be refused for a reason of its own, or for one that the other way meets too
	}
	return unnamedFile{f, dir}
}

// namesDescriptors reports whether /proc gives open files a path, which link needs.
var namesDescriptors = sync.OnceValue(func() bool {
	_, err := os.Stat("/proc/self/fd")
	return err == nil
})

// directBuffers holds buffers that begin at a page.
var directBuffers sync.Pool // of *[]byte

// Write takes all that the file is to have, once.
func (f unnamedFile) Write(p []byte) (int, error) {
	n := (len(p) + directAlign - 1) &^ (directAlign - 1)
	buf, _ := directBuffers.Get().(*[]byte)
	if buf == nil || len(*buf) < n {
		b := aligned(n)
		buf = &b
	}
	defer directBuffers.Put(buf)
	whole := (*buf)[:n]
	clear(whole[copy(whole, p):])
	_, err := f.File.Write(whole)
	if errors.Is(err, unix.EINVAL) { // this file system wants another alignment
		return f.writeCached(p)
	}
	if err != nil {
		return 0, err
	}
	return len(p), f.Truncate(int64(len(p)))
}

// writeCached writes p through the page cache.
func (f unnamedFile) writeCached(p []byte) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var set error
	err = raw.Control(func(fd uintptr) { _, set = unix.FcntlInt(fd, unix.F_SETFL, 0) })
	if err = errors.Join(err, set); err != nil {
		return 0, err
	}
	return f.WriteAt(p, 0)
}

// Place implements file.
func (f unnamedFile) Place(path string) error {
	err := f.link(path)
	if errors.Is(err, fs.ErrExist) { // a damaged file, or somebody was faster
		name := temporaryName(f.dir)
		if err = f.link(name); err == nil {
			err = os.Rename(name, path)
			if err != nil {
				err = errors.Join(err, os.Remove(name))
			}
		}
	}
	return errors.Join(err, f.Close())
}

// link gives the file a name that nothing has. It goes by /proc, since the way without
// it takes a privilege.
func (f unnamedFile) link(path string) error {
	err := unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(int(f.Fd())), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return &os.LinkError{Op: "linkat", Old: f.Name(), New: path, Err: err}
	}
	return nil
}

// Drop implements file.
func (f unnamedFile) Drop() error { return f.Close() }

// aligned returns n bytes that begin at a page.
func aligned(n int) []byte {
	b := make([]byte, n+directAlign)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (directAlign - 1)
	return b[skip : skip+n : skip+n]
}
