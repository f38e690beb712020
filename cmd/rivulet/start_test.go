package main

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
)

// startBytes bounds what the initialisation of all packages allocates, in bytes. It was
// 2.2 MB, half of it the AWS SDK's. Every process has that for as long as it lives, so
// a package that wants more had better make its tables when they are needed.
const startBytes = 3 << 20

var initialised = regexp.MustCompile(`(?m)^init (\S+) @.* clock, (\d+) bytes`)

func TestStartAllocates(t *testing.T) {
	if testing.Short() {
		t.Skip("short runs are the race detector's, which allocates more")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := initialised.FindAllSubmatch(out, -1)
	if len(lines) < 50 {
		t.Fatalf("%d packages were initialised: %s", len(lines), out)
	}
	sum := 0
	for _, l := range lines {
		n, err := strconv.Atoi(string(l[2]))
		if err != nil {
			t.Fatal(err)
		}
		if sum += n; n > 100<<10 {
			t.Logf("%s: %d bytes", l[1], n)
		}
	}
	t.Logf("all: %d bytes", sum)
	if sum > startBytes {
		t.Errorf("a start allocates %d bytes before main, want %d at most", sum, startBytes)
	}
}
