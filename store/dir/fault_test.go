package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/origintest"
	"github.com/rivuletfs/rivulet/origin/place"
)

var ctx = context.Background()

// paths returns all paths below root, with the sizes of files.
func paths(t *testing.T, root string) string {
	t.Helper()
	var list strings.Builder
	err := filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			fmt.Fprintf(&list, "%s %d %v\n", path[len(root):], info.Size(), info.ModTime())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list.String()
}

func TestOpen(t *testing.T) {
	empty, nested := t.TempDir(), filepath.Join(t.TempDir(), "a", "b")
	if _, err := Open(empty, false); !errors.Is(err, origin.ErrNoStore) {
		t.Errorf("an empty directory: %v; want ErrNoStore", err)
	}
	if _, err := Open(nested, false); !errors.Is(err, origin.ErrNoStore) {
		t.Errorf("no directory: %v; want ErrNoStore", err)
	}
	for _, path := range []string{empty, nested} {
		open(t, path)
		before := paths(t, path)
		for _, create := range []bool{true, false} {
			if _, err := Open(path, create); err != nil {
				t.Errorf("Open(%v) of a store: %v", create, err)
			}
		}
		if after := paths(t, path); after != before {
			t.Errorf("opening a store changed it:\n%s\n%s", before, after)
		}
	}
	version := filepath.Join(empty, place.Version)
	for _, text := range []string{"rivulet store 1\n", "rivulet store 2\n", "rivulet store 3", "other\n", ""} {
		if err := os.WriteFile(version, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		for _, create := range []bool{true, false} {
			if _, err := Open(empty, create); !errors.Is(err, origin.ErrVersion) {
				t.Errorf("version %q, create %v: %v; want ErrVersion", text, create, err)
			}
		}
	}
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "thesis.tex"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(foreign, true); !errors.Is(err, origin.ErrNoStore) || len(paths(t, foreign)) > 100 {
		t.Errorf("a directory of something else: %v; want ErrNoStore", err)
	}
}

func TestStaleTemp(t *testing.T) {
	path := t.TempDir()
	open(t, path)
	stale, young := filepath.Join(path, tempDir, "stale"), filepath.Join(path, tempDir, "young")
	for _, name := range []string{stale, young} {
		if err := os.WriteFile(name, []byte("x"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-staleTemp - time.Hour)
	if err := os.Chtimes(stale, old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, false); err != nil || !strings.Contains(paths(t, path), "stale") {
		t.Errorf("opened for reading: %v, or the stale file is gone", err)
	}
	open(t, path)
	if left := paths(t, path); strings.Contains(left, "stale") || !strings.Contains(left, "young") {
		t.Errorf("left: %s", left)
	}
}

// TestRepair damages stored files so that their size is wrong.
func TestRepair(t *testing.T) {
	for _, size := range []int{1000, 100_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) { testRepair(t, size) })
	}
}

func testRepair(t *testing.T, size int) {
	s := open(t, t.TempDir())
	o := chunktest.Random(1, size, chunk.FrameSize)
	object := []byte("an object")
	if _, err := s.Put(ctx, o.ID, o.Bytes); err != nil {
		t.Fatal(err)
	}
	d, err := s.PutObject(ctx, object)
	if err != nil {
		t.Fatal(err)
	}
	chunkPath, _ := s.place(place.Chunks, o.ID)
	objectPath, _ := s.place(place.Objects, d)
	for _, size := range []int64{0, 5, 5000} {
		for _, path := range []string{chunkPath, objectPath} {
			if err := os.Truncate(path, size); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.GetObject(ctx, d, 1<<20); err == nil || errors.Is(err, chunk.ErrNotFound) || !strings.Contains(err.Error(), d.String()) {
			t.Errorf("object of %d bytes: %v; want an error with its name", size, err)
		}
		var corrupt *chunk.CorruptError
		if _, err := chunk.NewDoor(s).ReadChunk(ctx, o.ID, make([]byte, size+9000), 0); !errors.As(err, &corrupt) {
			t.Errorf("chunk of %d bytes: %v; want a CorruptError", size, err)
		}
		if added, err := s.Put(ctx, o.ID, o.Bytes); err != nil || !added {
			t.Errorf("Put over %d bytes = %v, %v; want true", size, added, err)
		}
		if _, err := s.PutObject(ctx, object); err != nil {
			t.Error(err)
		}
		got, err := s.GetObject(ctx, d, 1<<20)
		if err != nil || !bytes.Equal(got, object) {
			t.Errorf("repaired object: %q, %v", got, err)
		}
	}
}

// failing is a file of which one call fails.
type failing struct {
	file
	call string
}

var errDisk = fmt.Errorf("disk: %w", syscall.ENOSPC)

func (f *failing) Write(b []byte) (int, error) {
	if f.call != "write" {
		return f.file.Write(b)
	}
	n, _ := f.file.Write(b[:len(b)/2])
	return n, errDisk
}

func (f *failing) Sync() error {
	if f.call == "sync" {
		return errDisk
	}
	return f.file.Sync()
}

func (f *failing) Place(path string) error {
	if f.call != "place" {
		return f.file.Place(path)
	}
	return errors.Join(errDisk, f.Drop())
}

// TestFailingWrites checks that a write that fails at any step is reported,
// changes nothing, and leaves no temporary file.
func TestFailingWrites(t *testing.T) {
	for _, size := range []int{1000, 100_000} {
		for _, call := range []string{"create", "write", "sync", "place"} {
			t.Run(fmt.Sprintf("%s %d", call, size), func(t *testing.T) { testFailingWrite(t, call, size) })
		}
	}
}

func testFailingWrite(t *testing.T, call string, size int) {
	o := chunktest.Random(1, size, chunk.FrameSize)
	s := open(t, t.TempDir())
	if err := s.SwapPointer(ctx, "p", nil, []byte("old")); err != nil {
		t.Fatal(err)
	}
	before := paths(t, s.root)
	s.create = func(dir string, size int) (file, error) {
		if call == "create" {
			return nil, errDisk
		}
		f, err := createFile(dir, size)
		return &failing{f, call}, err
	}
	if added, err := s.Put(ctx, o.ID, o.Bytes); added || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), o.ID.String()) {
		t.Errorf("Put = %v, %v; want an error with the chunk's name", added, err)
	}
	if _, err := s.PutObject(ctx, []byte("data")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("PutObject: %v", err)
	}
	if err := s.SwapPointer(ctx, "p", []byte("old"), []byte("new")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("SwapPointer: %v", err)
	}
	if after := paths(t, s.root); after != before {
		t.Errorf("files changed:\n%s\nwere:\n%s", after, before)
	}
	s.create = createFile
	if added, err := s.Put(ctx, o.ID, o.Bytes); !added || err != nil {
		t.Errorf("Put afterwards = %v, %v", added, err)
	}
	if err := s.SwapPointer(ctx, "p", []byte("old"), []byte("new")); err != nil {
		t.Errorf("SwapPointer afterwards: %v", err)
	}
}

// TestNoRename checks what happens where a file cannot be put in its place.
func TestNoRename(t *testing.T) {
	s := open(t, t.TempDir())
	o := chunktest.Random(1, 1000, chunk.FrameSize)
	path, _ := s.place(place.Chunks, o.ID)
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o777); err != nil {
		t.Fatal(err)
	}
	before := paths(t, s.root)
	if added, err := s.Put(ctx, o.ID, o.Bytes); added || err == nil || errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("Put = %v, %v; want an error", added, err)
	}
	if after := paths(t, s.root); after != before {
		t.Errorf("files changed: %s", after)
	}
}

// mountTmpfs returns a file system of size bytes that is gone after the test.
func mountTmpfs(t *testing.T, size string) (dir string, remountReadOnly func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a tmpfs")
	}
	dir = t.TempDir()
	if err := mount(dir, "size="+size, false); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unmount(dir); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir, func() {
		if err := mount(dir, "", true); err != nil {
			t.Skipf("needs to remount a tmpfs: %v", err)
		}
	}
}

func TestFullDisk(t *testing.T) {
	dir, _ := mountTmpfs(t, "2m")
	s := open(t, dir)
	var stored []chunktest.Object
	for i := range uint64(10) {
		o := chunktest.Random(i, 500_000, chunk.FrameSize)
		added, err := s.Put(ctx, o.ID, o.Bytes)
		if err == nil {
			stored = append(stored, o)
			continue
		}
		if added || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Put = %v, %v; want ENOSPC", added, err)
		}
		if _, err := s.Stat(ctx, o.ID); !errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("Stat after a failed Put: %v", err)
		}
	}
	if len(stored) == 0 || len(stored) == 10 {
		t.Fatalf("%d of 10 chunks fit into 2 MiB", len(stored))
	}
	if list, err := os.ReadDir(filepath.Join(dir, tempDir)); err != nil || len(list) != 0 {
		t.Errorf("temporary files left: %v, %v", list, err)
	}
	for _, o := range stored {
		if n, err := chunk.NewDoor(s).ReadChunk(ctx, o.ID, make([]byte, len(o.Bytes)), 0); err != nil || n != len(o.Bytes) {
			t.Errorf("stored chunk: %d, %v", n, err)
		}
	}
}

func TestReadOnly(t *testing.T) {
	dir, readOnly := mountTmpfs(t, "4m")
	s := open(t, dir)
	objects := chunktest.Objects(1)[:3]
	for _, o := range objects {
		if _, err := s.Put(ctx, o.ID, o.Bytes); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SwapPointer(ctx, "p", nil, []byte("v")); err != nil {
		t.Fatal(err)
	}
	readOnly()
	for _, create := range []bool{false, true} {
		place, err := Open(dir, create)
		if err != nil {
			t.Fatal(err)
		}
		s := place.generation(1)
		chunktest.TestSource(t, s, objects)
		if v, err := s.GetPointer(ctx, "p"); err != nil || string(v) != "v" {
			t.Errorf("GetPointer = %q, %v", v, err)
		}
		o := chunktest.Random(9, 100, chunk.FrameSize)
		if _, err := s.Put(ctx, o.ID, o.Bytes); !errors.Is(err, syscall.EROFS) {
			t.Errorf("Put: %v; want EROFS", err)
		}
		if _, err := s.PutObject(ctx, []byte("x")); !errors.Is(err, syscall.EROFS) {
			t.Errorf("PutObject: %v; want EROFS", err)
		}
		if err := s.SwapPointer(ctx, "p", []byte("v"), []byte("w")); !errors.Is(err, syscall.EROFS) {
			t.Errorf("SwapPointer: %v; want EROFS", err)
		}
	}
}

// TestStrangers puts files into the store that no store has.
func TestStrangers(t *testing.T) {
	s := open(t, t.TempDir())
	o := chunktest.Random(1, 1000, chunk.FrameSize)
	if _, err := s.Put(ctx, o.ID, o.Bytes); err != nil {
		t.Fatal(err)
	}
	if err := s.SwapPointer(ctx, "a/b", nil, []byte("v")); err != nil {
		t.Fatal(err)
	}
	_, folder := s.place(place.Chunks, o.ID)
	for _, path := range []string{folder + "/.nfs0001", folder + "/README", s.root + "/pointers/a/B=", s.root + "/pointers/a/%62=",
		s.root + "/pointers/a/%zz=", s.root + "/pointers/a/%4=", s.root + "/pointers/a/b", s.root + "/pointers/a/%41", s.root + "/pointers/=",
		s.root + "/pointers/..="} {
		if err := os.WriteFile(path, []byte("?"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	count := 0
	if err := s.List(ctx, func(chunk.ID, int64) error { count++; return nil }); err != nil || count != 1 {
		t.Errorf("List: %d chunks, %v; want 1", count, err)
	}
	var names []string
	err := s.ListPointers(ctx, "", func(name string) error { names = append(names, name); return nil })
	if err != nil || len(names) != 1 || names[0] != "a/b" {
		t.Errorf("ListPointers: %q, %v; want a/b", names, err)
	}
	for _, size := range []int{1, 100} {
		if err := s.writeCell(s.pointerPath("long"), make([]byte, origin.MaxPointerBytes+size)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.GetPointer(ctx, "long"); err == nil || errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("a pointer file that is too long: %v; want an error", err)
		}
	}
}

// TestLockWaits checks that waiting for another process's lock ends with the
// context.
func TestLockWaits(t *testing.T) {
	path := t.TempDir()
	a, b := open(t, path), open(t, path)
	unlock, err := a.lock(ctx)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if err := b.SwapPointer(short, "p", nil, []byte("v")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("SwapPointer under a foreign lock: %v; want DeadlineExceeded", err)
	}
	if err := a.SwapPointer(short, "p", nil, []byte("v")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("SwapPointer under its own lock: %v; want DeadlineExceeded", err)
	}
	unlock()
	if err := b.SwapPointer(ctx, "p", nil, []byte("v")); err != nil {
		t.Errorf("SwapPointer afterwards: %v", err)
	}
}

// TestIndex has several processes attach at once, and looks at what readers find
// that cannot list.
func TestIndex(t *testing.T) {
	path := t.TempDir()
	subject := origin.Sum([]byte("subject"))
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			for range 2 { // the second time, it is there
				if err := open(t, path).Attach(ctx, subject, "note", []byte{byte(i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s := open(t, path)
	file := filepath.Join(s.attachmentFolder(subject, "note"), place.Index)
	origintest.WantIndex(t, path, subject, 10)
	// A process was killed before it came to the index: attaching again mends it.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := s.Attach(ctx, subject, "note", []byte{3}); err != nil {
		t.Fatal(err)
	}
	origintest.WantIndex(t, path, subject, 1)
}

// TestCheckCells runs doc/format/check-cells.sh on a store, and on one with a
// damaged pointer or index.
func TestCheckCells(t *testing.T) {
	for _, tool := range []string{"sh", "sha256sum", "head", "tail", "find"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	path := t.TempDir()
	s := open(t, path)
	subject := origin.Sum([]byte("subject"))
	if err := s.Attach(ctx, subject, "note", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"names/A%b", "empty", strings.Repeat("long", 60)} {
		if err := s.SwapPointer(ctx, name, nil, bytes.Repeat([]byte("\x00\n"), len(name)-5)); err != nil {
			t.Fatal(err)
		}
	}
	check := func() (string, error) {
		out, err := exec.Command("sh", filepath.Join("..", "..", "doc", "format", "check-cells.sh"), path).CombinedOutput()
		return string(out), err
	}
	if out, err := check(); err != nil || out != "4 cells are right\n" {
		t.Fatalf("%v: %s", err, out)
	}
	for _, file := range []string{place.Pointer("names/A%b"), place.Pointer("empty"), place.Attached(subject, "note") + "/" + place.Index} {
		at := place.Generation(1) + "/" + file
		good, err := os.ReadFile(filepath.Join(path, at))
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(good)
		bad[0] ^= 4
		for _, b := range [][]byte{bad, good[1:], {}} {
			if err := os.WriteFile(filepath.Join(path, at), b, 0o666); err != nil {
				t.Fatal(err)
			}
			if out, err := check(); err == nil || !strings.Contains(out, at+": corrupt") {
				t.Errorf("%s is damaged: %v: %s", at, err, out)
			}
		}
		if err := os.WriteFile(filepath.Join(path, at), good, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}
