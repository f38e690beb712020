package gc_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/fsck"
	"github.com/rivuletfs/rivulet/gc"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
	"github.com/rivuletfs/rivulet/store/dir"
)

// killDir tells the test binary to publish to, or collect, the store in that
// directory until it is killed.
const killDir = "RIVULET_KILL_DIR"

func TestMain(m *testing.M) {
	if path := os.Getenv(killDir); path != "" {
		fmt.Fprintln(os.Stderr, victim(path, os.Args[1]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// hasty collects all it can in each run.
var hasty = gc.Policy{Recent: gc.MinRecent, Forget: time.Hour}

// victim works until it is killed, or fails.
func victim(path, as string) error {
	o, err := dir.Open(filepath.Join(path, "store"), true)
	if err != nil {
		return err
	}
	opt := publish.Options{Open: true, TempDir: path}
	b, err := os.ReadFile(filepath.Join(path, "salt"))
	if err == nil {
		opt.Salt, err = seal.ParseSalt(b)
	}
	if err == nil {
		opt.Signer, err = sign.ReadKey(filepath.Join(path, "signer"))
	}
	for err == nil {
		switch as {
		case "publish":
			err = publishSome(o, path, opt)
		case "collect":
			_, err = (&gc.Collector{Origin: o, Policy: hasty}).Run(ctx)
			time.Sleep(rand.N(100 * time.Millisecond)) // let publishers come to an end too
		}
	}
	return err
}

// publishSome publishes one of a few folders, and says so when it is done.
func publishSome(o origin.Origin, path string, opt publish.Options) error {
	opt.Name = fmt.Sprint("name", rand.IntN(3))
	r, err := publish.Image(ctx, o, []string{"dir:" + treeDir(path, rand.IntN(killTrees))}, opt)
	if errors.Is(err, publish.ErrTooOften) {
		return nil
	}
	if err == nil {
		fmt.Println(opt.Name, r.BlockMap)
	}
	return err
}

const killTrees = 4

func treeDir(path string, i int) string { return filepath.Join(path, fmt.Sprint("tree", i)) }

// makeTrees makes folders that have files in common, and what publishers need.
func makeTrees(t *testing.T, path string) {
	t.Helper()
	salt, err := seal.NewSalt(seal.DefaultDomain, 1)
	if err == nil {
		err = os.WriteFile(filepath.Join(path, "salt"), salt.Bytes(), 0o600)
	}
	if err == nil {
		_, err = sign.CreateKey(filepath.Join(path, "signer"))
	}
	if err != nil {
		t.Fatal(err)
	}
	for i := range killTrees {
		for k := i; k < i+3; k++ {
			content := make([]byte, 70_000)
			_, _ = rand.NewChaCha8([32]byte{byte(k)}).Read(content) // never fails
			file := filepath.Join(treeDir(path, i), fmt.Sprint("file", k))
			err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, content, 0o644))
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestKill kills a publisher and a collector that work at once, at random
// moments, and checks each time that after the next run of a collector the store
// is sound, with all that was published. Several stores go through that at once.
func TestKill(t *testing.T) {
	const stores = 4
	kills := 25 // of both, a store
	if testing.Short() || underRace {
		kills = 4
	}
	var total atomic.Int64
	t.Run("stores", func(t *testing.T) {
		for i := range stores {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				total.Add(killOften(t, rand.New(rand.NewPCG(uint64(i), 2)), kills))
			})
		}
	})
	if total.Load() == 0 {
		t.Error("no publisher ever published anything: no test")
	}
	t.Logf("%d killed, %d publications", 2*stores*kills, total.Load())
}

// killOften returns how many publications there were.
func killOften(t *testing.T, rng *rand.Rand, kills int) (total int64) {
	path := t.TempDir()
	makeTrees(t, path)
	published := map[string]bool{}
	within := 2 * firstTime(t, path)
	for range kills {
		said := killBoth(t, path, rng, within)
		for line := range strings.Lines(said) {
			name, digest, ok := strings.Cut(line, " ")
			if ok && strings.HasSuffix(digest, "\n") {
				published[name] = true
				total++
			}
		}
		checkSound(t, path, published)
	}
	return total
}

// firstTime returns how long a publisher takes from its start to its first
// publication, on this machine as it is today, and kills it.
func firstTime(t *testing.T, path string) time.Duration {
	t.Helper()
	cmd := exec.Command(os.Args[0], "publish")
	cmd.Env = append(os.Environ(), killDir+"="+path)
	out, err := cmd.StdoutPipe()
	begun := time.Now()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = out.Read(make([]byte, 1))
	took := time.Since(begun)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	if err != nil {
		t.Fatalf("the first publisher published nothing: %v", err)
	}
	return took
}

// killBoth runs a publisher and a collector, kills them within the given time, and
// returns what the publisher said.
func killBoth(t *testing.T, path string, rng *rand.Rand, within time.Duration) string {
	t.Helper()
	var said, stderr bytes.Buffer
	var cmds []*exec.Cmd
	for _, as := range []string{"publish", "collect"} {
		cmd := exec.Command(os.Args[0], as)
		cmd.Env = append(os.Environ(), killDir+"="+path)
		cmd.Stderr = &stderr
		if as == "publish" {
			cmd.Stdout = &said
		} else {
			cmd.Stderr = nil // it may be overtaken, and say so
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		after := time.Duration(rng.Int64N(int64(within)))
		defer time.AfterFunc(after, func() { _ = cmd.Process.Kill() }).Stop()
	}
	for _, cmd := range cmds {
		_ = cmd.Wait() // it is killed
	}
	if stderr.Len() > 0 {
		t.Fatalf("a victim failed: %s", stderr.String())
	}
	return said.String()
}

// clearWanted clears the alarms of a collector that met a publisher in a
// generation which it was about to delete: it waits for nothing, so it may. There
// must be no other.
func clearWanted(t *testing.T, o origin.Origin) {
	t.Helper()
	alarms, err := generation.Alarms(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range alarms {
		if a.Reason != generation.ReasonWanted {
			t.Errorf("alarm %+v", a)
		}
		if err := generation.Clear(ctx, o, a.Name); err != nil {
			t.Fatal(err)
		}
	}
}

func checkSound(t *testing.T, path string, published map[string]bool) {
	t.Helper()
	o, err := dir.Open(filepath.Join(path, "store"), true)
	if err != nil {
		t.Fatal(err)
	}
	// The collector may have been killed in its last look at a generation, and
	// the publisher after it had written a name there: then the next run raises
	// such an alarm as well, and the one after it is the one that counts.
	for range 2 {
		clearWanted(t, o)
		if _, err := (&gc.Collector{Origin: o, Policy: hasty}).Run(ctx); err != nil {
			t.Fatalf("the next run: %v", err)
		}
	}
	r, err := fsck.Check(ctx, o, fsck.Options{Deep: true})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Sound() || len(r.Alarms) > 0 {
		t.Fatalf("not sound: %+v, %+v", r.Problems, r.Alarms)
	}
	if len(r.Leftovers) > 0 {
		t.Errorf("left over: %v", r.Leftovers)
	}
	v := generation.NewView(o, generation.Options{})
	for name := range published {
		if _, err := v.Open(ctx, name); err != nil {
			t.Errorf("it was published: %v", err)
		}
	}
}
