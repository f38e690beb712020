package dir

import (
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/rivuletfs/rivulet/origin/place"
)

// A file is what writing takes of an *os.File, so that a test can put one in
// its place that fails.
type file interface {
	io.WriteCloser
	Name() string
	Sync() error
}

// createFile makes a new file of an unused name in dir.
func createFile(dir string) (file, error) {
	for {
		f, err := os.OpenFile(dir+"/"+randomName(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if !errors.Is(err, fs.ErrExist) {
			return f, err
		}
	}
}

// randomName returns a name that is hardly in use.
func randomName() string {
	var name [16]byte
	for i := range name {
		name[i] = byte(rand.Uint32())
	}
	return hex.EncodeToString(name[:])
}

// writeFile makes data the content of path, durably: at any moment path has the
// old content or the new.
func (t *tree) writeFile(path string, data []byte) error {
	f, err := t.create(filepath.Join(t.top, tempDir))
	if err != nil {
		return err
	}
	err = fill(f, data)
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return t.sync(filepath.Dir(path))
}

// fill writes data to f, syncs it and closes it.
func fill(f file, data []byte) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// makeDir makes a directory and its missing parents, durably.
func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o777)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeDir(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o777)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// syncDir makes the entries of a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readCell returns the value of the file at path, below t.root, which changes in
// place and has at most most bytes.
func (t *tree) readCell(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	return place.ParseCell(t.placeOf(path), b)
}

func (t *tree) writeCell(path string, value []byte) error {
	return t.writeFile(path, place.AppendCell(nil, t.placeOf(path), value))
}

// placeOf returns the place, in the origin, of a path below its directory.
func (t *tree) placeOf(path string) string {
	return strings.TrimLeft(filepath.ToSlash(path[len(t.top):]), "/")
}
