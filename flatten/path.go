package flatten

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

var errLeavesRoot = errors.New("path leaves the root")

// cleanPath returns name as an Entry's Path.
func cleanPath(name string) (string, error) {
	if name == "" {
		return "", errors.New("empty name")
	}
	if len(name) > 4*MaxPathBytes {
		return "", fmt.Errorf("name of %d bytes: at most %d are allowed", len(name), MaxPathBytes)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", errors.New("name holds a NUL byte")
	}
	if isClean(name) {
		return name, checkLength(name)
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			if len(parts) == 0 {
				return "", errLeavesRoot
			}
			parts = parts[:len(parts)-1]
		default:
			parts = append(parts, part)
		}
	}
	if len(parts) == 0 {
		return ".", nil
	}
	path := strings.Join(parts, "/")
	return path, checkLength(path)
}

// isClean reports whether name has no empty, "." or ".." part.
func isClean(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

func checkLength(path string) error {
	if len(path) > MaxPathBytes {
		return fmt.Errorf("path of %d bytes: at most %d are allowed", len(path), MaxPathBytes)
	}
	for part := range strings.SplitSeq(path, "/") {
		if len(part) > MaxNameBytes {
			return fmt.Errorf("name of %d bytes: at most %d are allowed", len(part), MaxNameBytes)
		}
	}
	return nil
}

// splitPath cuts a clean path into the directory and the name in it.
func splitPath(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return ".", path
	}
	return path[:i], path[i+1:]
}

// isBelow reports whether path lies below dir; both are clean.
func isBelow(path, dir string) bool {
	if dir == "." {
		return path != "."
	}
	return len(path) > len(dir) && path[len(dir)] == '/' && path[:len(dir)] == dir
}

// ComparePaths orders clean paths as a walk does: a directory before what it
// holds, siblings by the bytes of their names.
func ComparePaths(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == ".":
		return -1
	case b == ".":
		return 1
	}
	n := min(len(a), len(b))
	i := 0
	for i < n && a[i] == b[i] {
		i++
	}
	switch {
	case i == n:
		return cmp.Compare(len(a), len(b))
	case a[i] == '/':
		return -1
	case b[i] == '/':
		return 1
	}
	return cmp.Compare(a[i], b[i])
}
