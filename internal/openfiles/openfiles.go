// Package openfiles counts the descriptors that a process has open, for tests
// that what they run leaves none behind.
package openfiles

import (
	"fmt"
	"os"
	"runtime"
	"testing"
)

// dir is the folder with an entry for each open descriptor, that of the folder
// itself included.
func dir() string {
	if runtime.GOOS == "linux" {
		return "/proc/self/fd"
	}
	return "/dev/fd"
}

// Count returns how many descriptors this process has open, and one for the look
// at them.
func Count() (int, error) {
	list, err := os.ReadDir(dir())
	if err != nil {
		return 0, fmt.Errorf("count open descriptors: %w", err)
	}
	return len(list), nil
}

// In is Count for a test, which fails if they cannot be counted. Only where there
// need be no such folder, outside Linux, it is skipped.
func In(t testing.TB) int {
	t.Helper()
	n, err := Count()
	if err != nil && runtime.GOOS != "linux" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}
