package dir

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
)

// crashDir tells the test binary to be a writer to the store in that directory
// until it is killed.
const crashDir = "RIVULET_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		fmt.Fprintln(os.Stderr, crashWriter(dir))
		os.Exit(1)
	}
	if dir := os.Getenv(raceDir); dir != "" {
		if err := race(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// crashWriter puts what it can, and points to each object when it is there. It
// prints what it was told is durable.
func crashWriter(dir string) error {
	o, err := Open(dir, true)
	if err != nil {
		return err
	}
	s := o.generation(1)
	fmt.Println("open")
	var wg sync.WaitGroup
	failed := make(chan error, 4)
	for g := range uint64(4) {
		wg.Go(func() {
			for i := range uint64(1 << 30) {
				if err := crashStep(s, rand.Uint64()>>8, g, i); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	return <-failed
}

func crashStep(s *Store, seed, g, i uint64) error {
	o := chunktest.Random(seed, 1+int(seed%200_000), chunk.FrameSize)
	if _, err := s.Put(ctx, o.ID, o.Bytes); err != nil {
		return err
	}
	fmt.Println("chunk", o.ID)
	d, err := s.PutObject(ctx, fmt.Append(nil, seed))
	if err != nil {
		return err
	}
	name := fmt.Sprintf("P%d/%d", g, i%8)
	old, err := s.GetPointer(ctx, name)
	if err != nil && !errors.Is(err, chunk.ErrNotFound) {
		return err
	}
	if i%5 == 4 {
		return s.SwapPointer(ctx, name, old, nil)
	}
	return s.SwapPointer(ctx, name, old, []byte(d.String()))
}

// TestKill kills a writer at random moments and checks after each that what is
// visible is whole, that what was reported as stored is there, and that every
// pointer leads to an object.
func TestKill(t *testing.T) {
	kills := 20
	if testing.Short() {
		kills = 3
	}
	path := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 1))
	total := 0
	for k := range kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashDir+"="+path)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		if k%4 != 3 { // the others are killed while they begin, too
			if _, err := lines.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		timer := time.AfterFunc(time.Duration(rng.Int64N(int64(120*time.Millisecond))), func() { _ = cmd.Process.Kill() })
		said, err := io.ReadAll(lines) // to its end
		if err != nil {
			t.Fatal(err)
		}
		timer.Stop()
		_ = cmd.Wait() // it was killed
		if stderr.Len() > 0 {
			t.Fatalf("the writer failed: %s", stderr.String())
		}
		total += checkAfterKill(t, path, string(said))
	}
	if total == 0 {
		t.Error("no writer ever stored a chunk: no test")
	}
}

// checkAfterKill returns how many chunks the writer reported.
func checkAfterKill(t *testing.T, path, said string) (reported int) {
	t.Helper()
	s := open(t, path)
	held := make(map[string]bool)
	err := s.List(ctx, func(id chunk.ID, size int64) error {
		held[id.String()] = true
		b := make([]byte, size)
		n, err := s.Fetch(ctx, id, b, 0)
		if err != nil {
			return err
		}
		_, err = chunk.Verify(id, b[:n])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(said, "\n")
	for _, line := range lines[:len(lines)-1] { // what follows the last newline is cut
		if id, ok := strings.CutPrefix(line, "chunk "); ok {
			reported++
			if !held[id] {
				t.Errorf("chunk %s was stored and is not there", id)
			}
		}
	}
	err = s.ListPointers(ctx, "", func(name string) error {
		v, err := s.GetPointer(ctx, name)
		if err != nil {
			return err
		}
		d, err := origin.ParseDigest(string(v))
		if err != nil {
			return err
		}
		_, err = s.GetObject(ctx, d, 100)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return reported
}
