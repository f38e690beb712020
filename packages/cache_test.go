package packages

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestRemoveRest removes trees and files, and what is left of others.
func TestRemoveRest(t *testing.T) {
	c, err := OpenCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{c.path("bases", "ab", "root", "usr"), c.path("bases", ".cd.X", "root"), c.path("files", "ef")} {
		if err := os.MkdirAll(p, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(p, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.RemoveRest(); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"bases", "files"} {
		if left, err := os.ReadDir(c.path(kind)); err != nil || len(left) > 0 {
			t.Errorf("%s: left are %v, %v", kind, left, err)
		}
	}
	if err := removeWhole(c.path("bases", "none")); err != nil {
		t.Error(err)
	}
}

// TestLockOfAnother waits for a lock that its owner keeps, as one that was stopped does: the user is
// told whom for, and it ends.
func TestLockOfAnother(t *testing.T) {
	before, end := lockTold, lockBound
	lockTold, lockBound = 0, 100*time.Millisecond
	defer func() { lockTold, lockBound = before, end }()
	dir := t.TempDir()
	first, err := OpenCache(dir)
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := first.lock(context.Background(), "package-x")
	if err != nil {
		t.Fatal(err)
	}
	second, err := OpenCache(dir)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	second.Tell = func(line string) { told = append(told, line) }
	self := "process " + strconv.Itoa(os.Getpid())
	if _, err := second.lock(context.Background(), "package-x"); err == nil || !strings.Contains(err.Error(), self+" has been making package-x") {
		t.Errorf("without end: %v", err)
	}
	if len(told) != 1 || !strings.HasPrefix(told[0], "waiting for "+self) {
		t.Errorf("told %q", told)
	}
	unlock()
	if unlock, err = second.lock(context.Background(), "package-x"); err != nil {
		t.Fatal(err)
	}
	unlock()
}
