package overlay_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/overlay"
)

const (
	victimDir    = "RIVULET_OVERLAY_VICTIM" // a folder: be the process that is killed
	victimDisk   = 8 << 20
	victimBlocks = victimDisk / 4096 / victims
	victims      = 4
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimDir); dir != "" {
		fmt.Println(victim(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// victim writes numbers that grow, four writers at once, and tells which are
// acknowledged; few are flushed. It goes on until it is killed.
func victim(dir string) error {
	o, err := overlay.Open(dir, blockdevtest.NewMemory(make([]byte, victimDisk), nil), overlay.Options{})
	if err != nil {
		return err
	}
	errs := make(chan error)
	var out sync.Mutex
	for w := range int64(victims) {
		go func() {
			for n := uint64(1); ; n++ {
				block := w*victimBlocks + int64(n*37)%victimBlocks
				var err error
				if n%5 == 0 {
					err = o.Discard(block*4096, 4096)
				} else {
					_, err = o.WriteAt(bytes.Repeat(binary.LittleEndian.AppendUint64(nil, n), 512), block*4096)
				}
				if err == nil && n%40 == 0 {
					err = o.Flush()
				}
				if err == nil && w == 0 && n%90 == 0 {
					var s *overlay.Snapshot
					if s, err = o.Snapshot(); err == nil {
						_ = s.Close()
						err = o.Merge(context.Background(), 3)
					}
				}
				if err != nil {
					errs <- err
					return
				}
				out.Lock()
				fmt.Println(w, n)
				out.Unlock()
			}
		}()
	}
	return <-errs
}

// TestKill kills a process that writes to an overlay, and looks for all that it
// said was acknowledged.
func TestKill(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "o")
	base := blockdevtest.NewMemory(make([]byte, victimDisk), nil)
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	for round := range rounds {
		o, err := overlay.Create(dir, base, overlay.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
		acked := runVictim(t, dir, 300+round*400)
		if o, err = overlay.Open(dir, base, overlay.Options{}); err != nil {
			t.Fatalf("open after kill: %v", err)
		}
		checkVictim(t, o, acked)
		if err := o.Destroy(); err != nil {
			t.Fatal(err)
		}
	}
}

// runVictim kills the victim after some lines, and returns each writer's last
// number that it said was acknowledged.
func runVictim(t *testing.T, dir string, lines int) (acked [victims]uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := bufio.NewScanner(out)
	for n := 0; s.Scan(); n++ { // to the end: what it wrote before it died counts
		w, number, ok := strings.Cut(s.Text(), " ")
		i, err1 := strconv.Atoi(w)
		k, err2 := strconv.ParseUint(number, 10, 64)
		if !ok || err1 != nil || err2 != nil {
			t.Fatalf("victim: %s", s.Text())
		}
		acked[i] = k
		if n == lines {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait()
	return acked
}

// checkVictim checks that each block has what was acknowledged last, or something that
// was written later.
func checkVictim(t *testing.T, o *overlay.Overlay, acked [victims]uint64) {
	t.Helper()
	b := make([]byte, 4096)
	for w := range int64(victims) {
		last := map[int64]uint64{} // of each block, as acknowledged
		for n := uint64(1); n <= acked[w]; n++ {
			last[w*victimBlocks+int64(n*37)%victimBlocks] = n
		}
		for block := w * victimBlocks; block < (w+1)*victimBlocks; block++ {
			if _, err := o.ReadAt(b, block*4096); err != nil {
				t.Fatal(err)
			}
			got := binary.LittleEndian.Uint64(b)
			if !bytes.Equal(b, bytes.Repeat(b[:8], 512)) {
				t.Fatalf("block %d is a mixture: %x...", block, b[:32])
			}
			n := last[block]
			switch {
			case got == n || got == 0 && n%5 == 0: // as acknowledged
			case got > acked[w]: // later
			case got == 0:
				if zeroedLater(block, w, acked[w]) {
					continue
				}
				fallthrough
			default:
				t.Fatalf("block %d has %d, acknowledged was %d, of %d", block, got, n, acked[w])
			}
		}
	}
}

// zeroedLater reports whether one of the calls that may have followed the last
// acknowledged one zeroed the block.
func zeroedLater(block, w int64, acked uint64) bool {
	for n := acked + 1; n <= acked+6; n++ {
		if n%5 == 0 && w*victimBlocks+int64(n*37)%victimBlocks == block {
			return true
		}
	}
	return false
}
