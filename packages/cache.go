package packages

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/flatten/source"
	"github.com/rivuletfs/rivulet/internal/scratch"
	"github.com/rivuletfs/rivulet/packages/python"
)

// A Cache is a folder that keeps what was installed, downloaded and unpacked. Any number of
// processes may use one:
//
//	bases/CHAIN/root         the tree of an image that packages were installed for
//	bases/CHAIN/target.json  the Python that it has
//	bases/CHAIN/bytes        of the tree
//	files/DIGEST/NAME        a wheel or a tarball
//	installed/KEY.tar        an installation: a layer
//	installed/KEY.json       what it is; written last, it says that the installation is whole
//	locks/NAME               held by whoever makes one of these
//	uses/KIND-NAME           when it was used last, and before
//
// Things are made under other names, beginning with a dot, and get theirs when they are
// whole. What a process leaves behind that was killed is removed by the next that
// makes the same, and by Trim.
//
// Its fields are set before it is used first.
type Cache struct {
	Records Records           // where the image will be published; nil: nothing is known of that
	Tell    func(line string) // as of Python, one line at a time; may be nil
	Bound   int64             // bytes of all of it, beyond which what is used least goes; 0: DefaultBound

	dir   string
	mu    sync.Mutex // guards what follows
	notes []note
	grown bool // something was added
}

// OpenCache makes the folder if need be. Images that nobody else may read are unpacked
// there, so it is the user's alone.
func OpenCache(dir string) (*Cache, error) {
	for _, d := range []string{"bases", "files", "installed", "locks", "uses"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	return &Cache{dir: dir}, nil
}

func (c *Cache) path(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}

const lockPoll = 20 * time.Millisecond

// How long another process is waited for that makes the same thing, until the user is told which, and
// until that is given up: it may build for a quarter of an hour, or have been stopped.
var (
	lockTold  = 10 * time.Second
	lockBound = 45 * time.Minute
)

// lock waits until this process may make the thing of that name, which no other does then.
func (c *Cache) lock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(c.path("locks", name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	told := time.After(lockTold)
	bound := time.NewTimer(lockBound)
	defer bound.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			holds(f)
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, &os.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-told:
			c.tell("waiting for process %s, which makes %s of %s", holder(f), name, c.dir)
		case <-bound.C:
			return nil, fmt.Errorf("process %s has been making %s of %s for more than %v: has it stopped?", holder(f), name, c.dir, lockBound)
		case <-time.After(lockPoll):
		}
	}
}

// holds writes down in a lock whose it is, for those who wait. It holds without that.
func holds(f *os.File) {
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt(strconv.AppendInt(nil, int64(os.Getpid()), 10), 0)
	}
}

// holder returns the ID of the process that has a lock, for people to read.
func holder(f *os.File) string {
	var b [20]byte
	n, _ := f.ReadAt(b[:], 0)
	if _, err := strconv.Atoi(string(b[:n])); err != nil {
		return "another one"
	}
	return string(b[:n])
}

// fresh returns a name beside final for what is made, and removes what others left there.
func fresh(final string) (string, error) {
	dir, base := filepath.Split(final)
	all, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, e := range all {
		if !strings.HasPrefix(e.Name(), "."+base+".") {
			continue
		}
		if err := scratch.RemoveAll(dir + e.Name()); err != nil {
			return "", err
		}
	}
	return dir + "." + base + "." + rand.Text(), nil
}

// removeWhole is removeTree of what has its name: whenever this is killed, all of it is there,
// or nothing.
func removeWhole(path string) error {
	gone, err := fresh(path)
	if err == nil {
		err = os.Rename(path, gone)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, scratch.RemoveAll(gone))
}

// An Installed says what an installation is. Its files are those of the layer.
type Installed struct {
	Key       string            `json:"key"`
	Name      string            `json:"name"`
	Version   string            `json:"version"`
	Wheel     string            `json:"wheel"`            // name of the file, a wheel or npm's tarball
	SHA256    string            `json:"sha256,omitempty"` // of the file, in hexadecimal; npm has SHA512
	SHA512    string            `json:"sha512,omitempty"`
	Target    string            `json:"target"` // interpreter and platform
	DiffID    string            `json:"diff_id"`
	Size      int64             `json:"size"`             // of the layer in bytes
	Paths     map[string]string `json:"paths"`            // of files, to what tells their contents apart
	Installed time.Time         `json:"made_at"`          // when
	Used      time.Time         `json:"-"`                // when an image had it last
	Import    *python.Import    `json:"import,omitempty"` // nil: not measured yet

	make   func(ctx context.Context) (*Installed, error) // of one that is known by a record alone
	others bool                                          // by another publisher's
}

// installed returns an installation that is whole.
func (c *Cache) installed(key string) (*Installed, bool) {
	mark := c.path("installed", key+".json")
	data, err := os.ReadFile(mark)
	var in Installed
	if err != nil || json.Unmarshal(data, &in) != nil || in.Key != key {
		return nil, false
	}
	if _, err := v1.NewHash(in.DiffID); err != nil {
		return nil, false
	}
	info, err := os.Stat(c.path("installed", key+".tar"))
	if err != nil || info.Size() != in.Size {
		return nil, false
	}
	if m, err := os.Stat(mark); err == nil {
		in.Used = m.ModTime()
	}
	return &in, true
}

// install returns an installation, which write makes if it is neither here nor known by a
// record. Of all processes, one makes it, and the others wait. what names the package.
func (c *Cache) install(ctx context.Context, key, what string, write func(ctx context.Context, w io.Writer) (*Installed, error)) (*Installed, error) {
	if _, ok := c.installed(key); !ok {
		in, err := c.recorded(ctx, key, what, func(ctx context.Context) (*Installed, error) { return c.installHere(ctx, key, write) })
		if err != nil || in != nil {
			return in, err
		}
	}
	return c.installHere(ctx, key, write)
}

// installHere is install without records.
func (c *Cache) installHere(ctx context.Context, key string, write func(ctx context.Context, w io.Writer) (*Installed, error)) (_ *Installed, err error) {
	use := func(in *Installed) (*Installed, error) {
		now := time.Now()
		c.used(installedKind, key)
		return in, os.Chtimes(c.path("installed", key+".json"), now, now)
	}
	if in, ok := c.installed(key); ok {
		return use(in)
	}
	unlock, err := c.lock(ctx, "package-"+key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if in, ok := c.installed(key); ok {
		return use(in)
	}
	final := c.path("installed", key+".tar")
	made, err := fresh(final)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(made)
		}
	}()
	f, err := os.OpenFile(made, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	out := &hashingWriter{to: f, sum: sha256.New()}
	in, err := write(ctx, out)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	in.Key, in.DiffID, in.Size, in.Installed = key, "sha256:"+hex.EncodeToString(out.sum.Sum(nil)), out.size, time.Now().UTC()
	if err := os.Rename(made, final); err != nil {
		return nil, err
	}
	c.grew()
	c.used(installedKind, key)
	return in, c.mark(in)
}

// mark writes what an installation is. Only who has its lock does.
func (c *Cache) mark(in *Installed) error {
	data, err := json.Marshal(in)
	if err != nil {
		return err
	}
	mark := c.path("installed", in.Key+".json")
	half, err := fresh(mark)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(half, data, 0o644), os.Rename(half, mark))
}

// layer returns an installation as a layer.
func (c *Cache) layer(in *Installed) (*source.Layer, error) {
	id, err := v1.NewHash(in.DiffID)
	if err != nil {
		return nil, err
	}
	return source.NewLayer(id, in.Size, func(ctx context.Context) (io.ReadCloser, error) {
		if in.make != nil {
			return c.openRecorded(ctx, in)
		}
		return os.Open(c.path("installed", in.Key+".tar"))
	}), nil
}

// image returns installations as an image.
func (c *Cache) image(made []*Installed) (*source.Image, error) {
	img := &source.Image{}
	for _, in := range made {
		l, err := c.layer(in)
		if err != nil {
			return nil, err
		}
		img.Layers = append(img.Layers, l)
		c.noted(installationKind, in.Key, in, in.others)
	}
	return img, nil
}

// List returns what is installed, by name and version.
func (c *Cache) List() ([]*Installed, error) {
	all, err := os.ReadDir(c.path("installed"))
	if err != nil {
		return nil, err
	}
	var out []*Installed
	for _, e := range all {
		key, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || strings.HasPrefix(key, ".") {
			continue
		}
		if in, ok := c.installed(key); ok {
			out = append(out, in)
		}
	}
	slices.SortFunc(out, func(x, y *Installed) int {
		return strings.Compare(x.Name+"\x00"+x.Version+"\x00"+x.Key, y.Name+"\x00"+y.Version+"\x00"+y.Key)
	})
	return out, nil
}

// Remove removes an installation and its wheel. Disks that were published with it keep it, and an
// image that is being published with it now fails.
func (c *Cache) Remove(in *Installed) error {
	unlock, err := c.lock(context.Background(), "package-"+in.Key)
	if err != nil {
		return err
	}
	defer unlock()
	// The mark goes first: without it there is no installation.
	for _, p := range []string{c.path("installed", in.Key+".json"), c.path("installed", in.Key+".tar")} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	sum := in.SHA256
	if in.SHA512 != "" {
		sum = in.SHA512
	}
	if _, err := hex.DecodeString(sum); err != nil || sum == "" {
		return nil
	}
	return scratch.RemoveAll(c.path("files", sum))
}

// RemoveRest removes what installing needed: the trees of images, and the files. They are
// unpacked and downloaded again when they are needed.
func (c *Cache) RemoveRest() error {
	var errs []error
	for _, dir := range []string{"bases", "files"} {
		all, err := os.ReadDir(c.path(dir))
		errs = append(errs, err)
		for _, e := range all {
			remove := removeWhole
			if strings.HasPrefix(e.Name(), ".") {
				remove = scratch.RemoveAll
			}
			errs = append(errs, remove(c.path(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

type hashingWriter struct {
	to   io.Writer
	sum  hash.Hash
	size int64
}

func (h *hashingWriter) Write(p []byte) (int, error) {
	n, err := h.to.Write(p)
	_, _ = h.sum.Write(p[:n])
	h.size += int64(n)
	return n, err
}
