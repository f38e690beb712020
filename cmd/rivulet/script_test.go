package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/place"
	"github.com/rivuletfs/rivulet/profile"
	"github.com/rivuletfs/rivulet/store/zone/zonetest"
)

// raceOptions has a program that was built with the race detector end when it ends, and
// not a second later: most of what is run here is short.
const raceOptions = "atexit_sleep_ms=10"

func TestMain(m *testing.M) {
	if os.Getenv("GORACE") == "" {
		if err := os.Setenv("GORACE", raceOptions); err != nil { // of what tests start
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	testscript.Main(m, map[string]func(){"rivulet": main, "cell": cell, "scrape": scrape, "started": started})
}

// cell PLACE writes what is stored at a place that changes, for the value on its
// standard input.
func cell() {
	value, err := io.ReadAll(os.Stdin)
	if err == nil && len(os.Args) != 2 {
		err = errors.New("usage: cell PLACE")
	}
	if err == nil {
		_, err = os.Stdout.Write(place.AppendCell(nil, os.Args[1], value))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// started WORKLOAD CHUNK... writes the profile of one start, which read a frame of each
// of those chunks, a millisecond after one another, of the image that "rivulet inspect
// --json" tells of on standard input.
func started() {
	var image struct {
		BlockMap string `json:"block_map"`
	}
	err := json.NewDecoder(os.Stdin).Decode(&image)
	r := profile.Recording{Length: time.Second}
	if err == nil {
		r.Image, err = origin.ParseDigest(image.BlockMap)
	}
	if err == nil && len(os.Args) < 2 {
		err = errors.New("usage: started WORKLOAD CHUNK...")
	}
	for i := 2; i < len(os.Args) && err == nil; i++ {
		var n uint64
		n, err = strconv.ParseUint(os.Args[i], 10, 32)
		r.Workload = os.Args[1]
		r.Touches = append(r.Touches, profile.Touch{
			Frame: profile.Frame{Chunk: uint32(n)}, At: time.Duration(i) * time.Millisecond, Waited: 30 * time.Millisecond,
		})
	}
	var b []byte
	if err == nil {
		b, err = r.Profile().AppendBinary(nil)
	}
	if err == nil {
		_, err = os.Stdout.Write(b)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// TestScripts runs the command lines of testdata/script, each in a folder and
// with a store of its own.
func TestScripts(t *testing.T) {
	kms, end := startKMS()
	t.Cleanup(end)
	var nodes []string
	for range 5 {
		nodes = append(nodes, zonetest.NewServer(t).URL())
	}
	dir, files := "testdata/script", []string(nil)
	if testing.Short() {
		// Those with processes that stay and serve many; what the others start does one
		// thing, by packages that are tested themselves.
		for _, name := range []string{"agent", "cached", "mount", "mountwritable", "serve", "status", "writable", "zone"} {
			files = append(files, filepath.Join(dir, name+".txt"))
		}
		dir = ""
	}
	testscript.Run(t, testscript.Params{
		Dir: dir, Files: files,
		Condition: condition,
		Cmds:      map[string]func(*testscript.TestScript, bool, []string){"await": await, "empty": empty, "signal": signalServer},
		Setup: func(e *testscript.Env) error {
			e.Setenv("RIVULET_STORE", "dir:"+e.WorkDir+"/store")
			e.Setenv("XDG_RUNTIME_DIR", e.WorkDir+"/run")
			e.Setenv("XDG_CONFIG_HOME", e.WorkDir+"/config")
			e.Setenv("TMPDIR", e.WorkDir)
			e.Setenv("GORACE", os.Getenv("GORACE"))
			e.Setenv("RIVULET_CACHED", "none") // one may run on this machine
			e.Setenv("KMS", kms)
			e.Setenv("ZONE", strings.Join(nodes, ","))
			e.Setenv("KMS_KEY", kmsKey)
			for name, value := range awsEnv {
				e.Setenv(name, value)
			}
			return nil
		},
	})
}

// awsEnv keeps what this machine knows of AWS away from the commands.
var awsEnv = map[string]string{
	"AWS_ACCESS_KEY_ID": "AKIDEXAMPLEEXAMPLE00", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY00",
	"AWS_SESSION_TOKEN": "", "AWS_REGION": "", "AWS_PROFILE": "", "AWS_CONFIG_FILE": "/dev/null",
	"AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1",
}

// condition knows [mounts]: whether this machine lets us mount.
func condition(name string) (bool, error) {
	if name != "mounts" {
		return false, fmt.Errorf("unknown condition %q", name)
	}
	for _, device := range []string{"/dev/fuse", "/dev/loop-control"} {
		f, err := os.OpenFile(device, os.O_RDWR, 0)
		if err != nil {
			return false, nil
		}
		_ = f.Close()
	}
	return os.Geteuid() == 0, nil
}

// await [!] FILE waits until a file is there, or with "!" until it is gone.
func await(ts *testscript.TestScript, gone bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] await FILE")
	}
	eventually(ts, args[0], func() bool {
		_, err := os.Lstat(ts.MkAbs(args[0]))
		return errors.Is(err, fs.ErrNotExist) == gone
	})
}

// empty DIR waits until a folder is empty.
func empty(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: empty DIR")
	}
	eventually(ts, args[0], func() bool {
		names, err := os.ReadDir(ts.MkAbs(args[0]))
		return err == nil && len(names) == 0
	})
}

// eventually gives a machine under load time enough.
func eventually(ts *testscript.TestScript, what string, ok func() bool) {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	ts.Fatalf("%s: did not become so in 30 s", what)
}

var serverPID = regexp.MustCompile(`served by process (\d+)`)

// signal TERM|KILL FILE sends a signal to the server that "rivulet mount" has
// started; FILE has what that said.
func signalServer(ts *testscript.TestScript, neg bool, args []string) {
	number := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}
	if neg || len(args) != 2 || number[args[0]] == 0 {
		ts.Fatalf("usage: signal TERM|KILL FILE")
	}
	said := serverPID.FindStringSubmatch(ts.ReadFile(args[1]))
	if said == nil {
		ts.Fatalf("%s names no process", args[1])
	}
	pid, err := strconv.Atoi(said[1])
	ts.Check(err)
	ts.Check(syscall.Kill(pid, number[args[0]]))
}
