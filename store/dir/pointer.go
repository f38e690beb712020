package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rivuletfs/rivulet/origin"
)

// How a pointer's name becomes a path. Lower-case letters, digits and . _ - :
// @ stand for themselves, every other byte is % and two lower-case hexadecimal
// digits; so names that differ in case stay apart on file systems that ignore
// it. A part of the name is a directory; one longer than maxPart is several,
// all but the last of them ending in ~. The file ends in =, so that a and a/b
// can both be.
const (
	plainBytes = "abcdefghijklmnopqrstuvwxyz0123456789._-:@"
	maxPart    = 200 // bytes of an encoded part in one path element
	moreMark   = "~"
	fileMark   = "="
)

// encodeDir returns the path of the directory for complete parts of a name,
// which may be empty.
func encodeDir(name string) string {
	var path strings.Builder
	path.WriteString(pointerDir)
	if name == "" {
		return path.String()
	}
	for part := range strings.SplitSeq(name, "/") {
		path.WriteByte('/')
		element := 0
		for i := range len(part) {
			if element >= maxPart {
				path.WriteString(moreMark + "/")
				element = 0
			}
			if strings.IndexByte(plainBytes, part[i]) >= 0 {
				path.WriteByte(part[i])
				element++
			} else {
				fmt.Fprintf(&path, "%%%02x", part[i])
				element += 3
			}
		}
	}
	return path.String()
}

func (t *tree) pointerPath(name string) string {
	return t.root + "/" + encodeDir(name) + fileMark
}

// decodeName is the inverse of encodeDir(name) + fileMark, for a path below
// pointerDir. It is false for every other path.
func decodeName(path string) (string, bool) {
	coded, ok := strings.CutSuffix(path, fileMark)
	if !ok {
		return "", false
	}
	coded = strings.ReplaceAll(coded, moreMark+"/", "")
	var name []byte
	for i := 0; i < len(coded); i++ {
		c := coded[i]
		if c == '%' {
			if i+2 >= len(coded) {
				return "", false
			}
			v, err := strconv.ParseUint(coded[i+1:i+3], 16, 8)
			if err != nil {
				return "", false
			}
			c = byte(v)
			i += 2
		}
		name = append(name, c)
	}
	if encodeDir(string(name))+fileMark != pointerDir+"/"+path {
		return "", false
	}
	return string(name), origin.ValidName(string(name)) == nil
}

// GetPointer implements [origin.Pointers].
func (t *tree) GetPointer(ctx context.Context, name string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := origin.ValidName(name); err != nil {
		return nil, err
	}
	v, err := t.readPointer(name)
	if err != nil {
		return nil, failed("get pointer", name, err)
	}
	return v, nil
}

func (t *tree) readPointer(name string) ([]byte, error) {
	f, err := os.Open(t.pointerPath(name))
	if errors.Is(err, syscall.ENAMETOOLONG) {
		return nil, fmt.Errorf("the store's own path is too long for this name: %w", err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	v, err := io.ReadAll(io.LimitReader(f, origin.MaxPointerBytes+1))
	if err == nil && len(v) > origin.MaxPointerBytes {
		return nil, fmt.Errorf("value of more than %d bytes", origin.MaxPointerBytes)
	}
	return v, err
}

// SwapPointer implements [origin.Pointers].
func (t *tree) SwapPointer(ctx context.Context, name string, old, new []byte) error {
	if err := origin.ValidName(name); err != nil {
		return err
	}
	if len(new) > origin.MaxPointerBytes {
		return fmt.Errorf("swap pointer %s: value of %d bytes, at most %d are allowed", name, len(new), origin.MaxPointerBytes)
	}
	unlock, err := t.lock(ctx)
	if err != nil {
		return fmt.Errorf("swap pointer %s: %w", name, err)
	}
	defer unlock()
	present, err := t.readPointer(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		present, err = nil, nil
	case err != nil:
		return fmt.Errorf("swap pointer %s: %w", name, err)
	}
	if (present == nil) != (old == nil) || !bytes.Equal(present, old) {
		return fmt.Errorf("swap pointer %s: %w", name, origin.ErrConflict)
	}
	switch {
	case new != nil:
		err = t.writePointer(name, new)
	case present != nil:
		err = t.removePointer(name)
	}
	if err != nil {
		return fmt.Errorf("swap pointer %s: %w", name, err)
	}
	return nil
}

func (t *tree) writePointer(name string, value []byte) error {
	path := t.pointerPath(name)
	if err := makeDir(filepath.Dir(path)); err != nil {
		return err
	}
	return t.writeFile(path, value)
}

// removePointer removes the file and the directories that this empties. Nobody
// fills them meanwhile, for that takes the lock.
func (t *tree) removePointer(name string) error {
	path := t.pointerPath(name)
	if err := os.Remove(path); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	for dir != filepath.Join(t.root, pointerDir) && os.Remove(dir) == nil {
		dir = filepath.Dir(dir)
	}
	return syncDir(dir)
}

// lock keeps everybody else, goroutine or process, from changing pointers. A
// process that ends lets go. Between processes it asks again every now and
// then, so that ctx can end the waiting.
func (t *tree) lock(ctx context.Context) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case <-t.swaps:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	f, err := os.OpenFile(filepath.Join(t.top, lockFile), os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		t.swaps <- struct{}{}
		return nil, err
	}
	unlock = func() {
		_ = f.Close() // lets go of the lock too
		t.swaps <- struct{}{}
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return unlock, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			unlock()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			unlock()
			return nil, ctx.Err()
		}
	}
}

// ListPointers implements [origin.Pointers].
func (t *tree) ListPointers(ctx context.Context, prefix string, fn func(name string) error) error {
	parts := prefix[:max(0, strings.LastIndexByte(prefix, '/'))] // complete ones
	if parts != "" && origin.ValidName(parts) != nil || strings.HasPrefix(prefix, "/") {
		return ctx.Err() // no name begins so
	}
	base := t.root + "/" + pointerDir
	var names []string
	err := filepath.WalkDir(t.root+"/"+encodeDir(parts), func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // there is none, or it was removed meanwhile
		}
		if err != nil || e.IsDir() {
			return err
		}
		if name, ok := decodeName(path[len(base)+1:]); ok && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list pointers %s: %w", prefix, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := fn(name); err != nil {
			return err
		}
	}
	return nil
}
