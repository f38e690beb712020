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

// A file is being written, and has no name yet that counts. Place or Drop is the last
// call.
type file interface {
	io.Writer
	Sync() error
	// Place gives the file its name, and takes that from whatever has it.
	Place(path string) error
	// Drop forgets the file.
	Drop() error
}

// createFile makes a file that takes size bytes by one Write. Until it is placed, it is
// in the file system of dir, and may have a name there.
func createFile(dir string, size int) (file, error) {
	if f := createUnnamed(dir, size); f != nil {
		return f, nil
	}
	for {
		f, err := os.OpenFile(temporaryName(dir), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if err == nil {
			return namedFile{f}, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
}

// temporaryName returns a path in dir that is hardly in use.
func temporaryName(dir string) string {
	var name [16]byte
	for i := range name {
		name[i] = byte(rand.Uint32())
	}
	return dir + "/" + hex.EncodeToString(name[:])
}

// A namedFile has a name in a folder for temporary files.
type namedFile struct{ *os.File }

func (f namedFile) Place(path string) error {
	err := f.Close()
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func (f namedFile) Drop() error { return errors.Join(f.Close(), os.Remove(f.Name())) }

// writeFile makes data the content of path, durably: at any moment path has the
// old content or the new.
func (t *tree) writeFile(path string, data []byte) error {
	if err := t.writeEntry(path, data); err != nil {
		return err
	}
	return t.sync(filepath.Dir(path))
}

// writeEntry is writeFile that leaves the name to be made durable.
func (t *tree) writeEntry(path string, data []byte) error {
	f, err := t.create(filepath.Join(t.top, tempDir), len(data))
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return errors.Join(err, f.Drop())
	}
	return f.Place(path)
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
