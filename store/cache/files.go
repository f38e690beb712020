package cache

import (
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// An op is an operation on the file system that can fail.
type op string

const (
	opCreate op = "create"
	opOpen   op = "open"
	opRead   op = "read"
	opWrite  op = "write"
	opSync   op = "sync"
	opRename op = "rename"
	opRemove op = "remove"
	opSpace  op = "statfs"
)

// A fault decides before each operation whether it fails. For reads and writes
// n is how many bytes are asked for, and a smaller allowed with an error is a
// short one. Tests set it.
type fault func(o op, path string, n int) (allowed int, err error)

// files are the operations of the engine on the file system below dir.
type files struct {
	dir   string
	group bool // its members may read
	fault fault
	space func() (int64, error) // instead of statfs, for tests
}

func (s *files) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func (s *files) before(o op, path string) error {
	if s.fault == nil {
		return nil
	}
	_, err := s.fault(o, path, 0)
	return err
}

// create makes a new file that only the caller writes to.
func (s *files) create(path string) (*os.File, error) {
	if err := s.before(opCreate, path); err != nil {
		return nil, err
	}
	mode := os.FileMode(0o600)
	if s.group {
		mode = 0o640
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err == nil && s.group {
		err = f.Chmod(mode) // whatever the umask says
	}
	return f, err
}

// open opens a file for reading.
func (s *files) open(path string) (*os.File, error) {
	if err := s.before(opOpen, path); err != nil {
		return nil, err
	}
	return os.Open(path)
}

// readAt is f.ReadAt.
func (s *files) readAt(f *os.File, p []byte, off int64) (int, error) {
	if s.fault != nil {
		if n, err := s.fault(opRead, f.Name(), len(p)); err != nil {
			n, _ = f.ReadAt(p[:n], off)
			return n, err
		}
	}
	return f.ReadAt(p, off)
}

// writeAt is f.WriteAt.
func (s *files) writeAt(f *os.File, p []byte, off int64) error {
	if s.fault != nil {
		if n, err := s.fault(opWrite, f.Name(), len(p)); err != nil {
			_, _ = f.WriteAt(p[:n], off)
			return err
		}
	}
	_, err := f.WriteAt(p, off)
	return err
}

func (s *files) sync(f *os.File) error {
	if err := s.before(opSync, f.Name()); err != nil {
		return err
	}
	return f.Sync()
}

// dirMode returns the mode of directories.
func (s *files) dirMode() os.FileMode {
	if s.group {
		return 0o750
	}
	return 0o700
}

// mkdir makes a directory, unless it is there.
func (s *files) mkdir(path string) error {
	err := os.Mkdir(path, s.dirMode())
	if os.IsExist(err) {
		return nil
	}
	if err == nil && s.group {
		err = os.Chmod(path, s.dirMode()) // whatever the umask says
	}
	return err
}

// rename gives a file another name, in a folder that may be new.
func (s *files) rename(from, to string) error {
	if err := s.before(opRename, to); err != nil {
		return err
	}
	err := os.Rename(from, to)
	if os.IsNotExist(err) { // the first file of its folder
		if err := s.mkdir(filepath.Dir(to)); err != nil {
			return err
		}
		err = os.Rename(from, to)
	}
	return err
}

// remove unlinks a file. One that is not there is no error.
func (s *files) remove(path string) error {
	if err := s.before(opRemove, path); err != nil {
		return err
	}
	if err := os.Remove(path); !os.IsNotExist(err) {
		return err
	}
	return nil
}

// free returns the bytes that the file system has left for the user.
func (s *files) free() (int64, error) {
	if err := s.before(opSpace, s.dir); err != nil {
		return 0, err
	}
	if s.space != nil {
		return s.space()
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return 0, os.NewSyscallError("statfs", err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // 32 bits on some systems
}

// readFile returns the content of a file of at most max bytes.
func (s *files) readFile(path string, max int64) ([]byte, error) {
	f, err := s.open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(readerAt{s, f, new(int64)}, max+1))
	if err == nil && int64(len(b)) > max {
		err = errTooLong
	}
	return b, err
}

// readerAt reads a file from its begin, faults included.
type readerAt struct {
	s   *files
	f   *os.File
	off *int64
}

func (r readerAt) Read(p []byte) (int, error) {
	n, err := r.s.readAt(r.f, p, *r.off)
	*r.off += int64(n)
	return n, err
}

// replace makes data the content of the file name in the directory: at any
// moment it has the old content or the new, if durable is set even after a
// power cut.
func (s *files) replace(name string, data []byte, durable bool) error {
	temp := s.path(tempDir, name)
	if err := s.remove(temp); err != nil {
		return err
	}
	f, err := s.create(temp)
	if err != nil {
		return err
	}
	err = s.writeAt(f, data, 0)
	if err == nil && durable {
		err = s.sync(f)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = s.rename(temp, s.path(name))
	}
	if err != nil {
		_ = s.remove(temp) // else the next start does
		return err
	}
	if durable {
		return s.syncDir()
	}
	return nil
}

// syncDir makes the entries of the directory durable.
func (s *files) syncDir() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return s.sync(d)
}
