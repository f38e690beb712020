package dir

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
)

// raceDir tells the test binary to be one of the processes of TestProcesses.
const raceDir = "RIVULET_RACE_DIR"

// What each process of the race does.
const (
	raceChunks = 40  // puts, the same in all
	raceAdds   = 100 // increments of one pointer
)

// race makes the store if it comes first, puts chunks that all put, and counts
// on a pointer that all count on.
func race(path string) error {
	o, err := Open(path, true)
	if err != nil {
		return err
	}
	s := o.generation(1)
	for i := range uint64(raceChunks) {
		o := chunktest.Random(i, 50_000, chunk.FrameSize)
		if _, err := s.Put(ctx, o.ID, o.Bytes); err != nil {
			return err
		}
		if _, err := chunk.NewDoor(s).ReadChunk(ctx, o.ID, make([]byte, len(o.Bytes)), 0); err != nil {
			return err
		}
	}
	for done := 0; done < raceAdds; {
		switch err := increment(s, "counter/of/all"); {
		case err == nil:
			done++
		case !errors.Is(err, origin.ErrConflict):
			return err
		}
	}
	return nil
}

func increment(s *Store, name string) error {
	old, err := s.GetPointer(ctx, name)
	if err != nil && !errors.Is(err, chunk.ErrNotFound) {
		return err
	}
	n := 0
	if old != nil {
		if n, err = strconv.Atoi(string(old)); err != nil {
			return fmt.Errorf("pointer has %q: %w", old, err)
		}
	}
	return s.SwapPointer(ctx, name, old, []byte(strconv.Itoa(n+1)))
}

// TestProcesses has several processes make one store, put the same chunks and
// swap the same pointer at once: nothing fails, and no swap is lost.
func TestProcesses(t *testing.T) {
	const processes = 4
	path := filepath.Join(t.TempDir(), "store")
	var wg sync.WaitGroup
	for range processes {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), raceDir+"="+path)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	s := open(t, path)
	if v, err := s.GetPointer(ctx, "counter/of/all"); err != nil || string(v) != strconv.Itoa(processes*raceAdds) {
		t.Errorf("counter: %q, %v; want %d", v, err, processes*raceAdds)
	}
	held := 0
	if err := s.List(ctx, func(chunk.ID, int64) error { held++; return nil }); err != nil || held != raceChunks {
		t.Errorf("%d chunks, %v; want %d", held, err, raceChunks)
	}
	if list, err := os.ReadDir(filepath.Join(path, tempDir)); err != nil || len(list) != 0 {
		t.Errorf("temporary files left: %v, %v", list, err)
	}
}

// TestFullDiskOfPointers fills a file system with pointers: the swap that does
// not fit leaves the old value, and room lets it go on.
func TestFullDiskOfPointers(t *testing.T) {
	dir, _ := mountTmpfs(t, "1m")
	s := open(t, dir)
	if err := s.SwapPointer(ctx, "old", nil, []byte("old")); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "tmp", "filler")
	if err := os.WriteFile(filler, make([]byte, 2<<20), 0o666); err == nil {
		t.Fatal("2 MiB fit into 1 MiB")
	}
	big := []byte(strings.Repeat("v", origin.MaxPointerBytes))
	for _, name := range []string{"old", "new", "deep/er/new"} {
		want, _ := s.GetPointer(ctx, name)
		if err := s.SwapPointer(ctx, name, want, big); err == nil || errors.Is(err, origin.ErrConflict) {
			t.Errorf("SwapPointer %s on a full disk: %v", name, err)
		}
		if got, err := s.GetPointer(ctx, name); string(got) != string(want) || (err == nil) != (want != nil) {
			t.Errorf("%s after a failed swap: %q, %v; want %q", name, got, err, want)
		}
	}
	var names []string
	if err := s.ListPointers(ctx, "", func(name string) error { names = append(names, name); return nil }); err != nil || len(names) != 1 {
		t.Errorf("pointers %q, %v; want old alone", names, err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"old", "new", "deep/er/new"} {
		want, _ := s.GetPointer(ctx, name)
		if err := s.SwapPointer(ctx, name, want, big); err != nil {
			t.Errorf("SwapPointer %s with room: %v", name, err)
		}
	}
}
