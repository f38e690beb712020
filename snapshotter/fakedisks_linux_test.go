package snapshotter

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// fakeDisks has directories in place of disks, and remembers as an agent does.
type fakeDisks struct {
	t   testing.TB
	dir string

	mu        sync.Mutex // guards what follows
	published []published
	mounted   map[string]Disk
	writes    map[string]Writes
	devices   map[string]Writes
	finds     int
	findErr   error
	mountErr  error
	meanwhile func() // is called by the next Unmount
	hang      bool   // until the context ends
}

type published struct {
	manifest digest.Digest
	files    string
	Found
}

func (f *fakeDisks) publish(images ...*image) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range images {
		files := filepath.Join(f.dir, fmt.Sprint(len(f.published)))
		check(f.t, os.Mkdir(files, 0o755))
		i.tree().write(f.t, files)
		d := Disk{Store: "fake", Digest: digest.FromString(files)}
		f.published = append(f.published, published{i.manifest, files, Found{d, i.diffIDs}})
	}
}

func (f *fakeDisks) unpublish() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.published = nil
}

func (f *fakeDisks) fail(find, mount error, hang bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.findErr, f.mountErr, f.hang = find, mount, hang
}

func (f *fakeDisks) Find(ctx context.Context, q Query) (Found, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.finds++
	if f.hang {
		<-ctx.Done()
		return Found{}, context.Cause(ctx)
	}
	if f.findErr != nil {
		return Found{}, f.findErr
	}
	for _, p := range f.published {
		if p.manifest == q.Manifest || q.Manifest == "" && chainOf(p.Layers) == q.Chain {
			return p.Found, nil
		}
	}
	return Found{}, fmt.Errorf("fake: %w", ErrNoDisk)
}

func (f *fakeDisks) Mount(_ context.Context, d Disk, dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.mounted[dir]; ok {
		return nil
	}
	if f.mountErr != nil {
		return f.mountErr
	}
	for _, p := range f.published {
		if p.Disk == d {
			f.mounted[dir] = d
			return unix.Mount(p.files, dir, "", unix.MS_BIND, "")
		}
	}
	return fmt.Errorf("fake: %w", ErrNoDisk)
}

// MountWritable has a copy of the disk in w.Dir, which is the whole of it here.
func (f *fakeDisks) MountWritable(_ context.Context, d Disk, dir string, w Writes) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.writes == nil {
		f.writes = map[string]Writes{}
	}
	if f.writes[dir] == w {
		return nil
	}
	if f.mountErr != nil {
		return f.mountErr
	}
	for _, p := range f.published {
		if p.Disk == d {
			if err := os.CopyFS(w.Dir, os.DirFS(p.files)); err != nil {
				return err
			}
			f.writes[dir] = w
			return unix.Mount(w.Dir, dir, "", unix.MS_BIND, "")
		}
	}
	return fmt.Errorf("fake: %w", ErrNoDisk)
}

// AttachWritable has a copy of the disk, too, which stands for a device.
func (f *fakeDisks) AttachWritable(_ context.Context, d Disk, link string, w Writes) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mountErr != nil {
		return "", f.mountErr
	}
	f.devices[link] = w
	return "/dev/fake-" + d.Digest.Encoded(), os.MkdirAll(w.Dir, 0o700)
}

func (f *fakeDisks) Detach(_ context.Context, link string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	w, ok := f.devices[link]
	if !ok {
		return nil
	}
	delete(f.devices, link)
	return os.RemoveAll(w.Dir)
}

func (f *fakeDisks) Unmount(_ context.Context, dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if meanwhile := f.meanwhile; meanwhile != nil {
		f.meanwhile = nil
		meanwhile()
	}
	if w, ok := f.writes[dir]; ok {
		if err := unix.Unmount(dir, 0); err != nil {
			return err
		}
		delete(f.writes, dir)
		return os.RemoveAll(w.Dir)
	}
	if _, ok := f.mounted[dir]; !ok {
		return nil
	}
	delete(f.mounted, dir)
	return unix.Unmount(dir, 0)
}

// count returns how many disks are mounted.
func (f *fakeDisks) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.mounted)
}

func (f *fakeDisks) end() {
	for dir := range f.writes {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
	for dir := range f.mounted {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
}
