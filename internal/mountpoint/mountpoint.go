// Package mountpoint reads the kernel's table of mounts, and finds out how it names a folder.
package mountpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxLinks bounds the links that a mount point is reached by, as the kernel does.
const maxLinks = 40

// Resolve returns a folder's absolute path without symbolic links. It does not look at what is mounted
// there, which may have lost its server, or hang.
func Resolve(dir string) (string, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("mount point: %w", err)
	}
	for range maxLinks {
		path = trim(path)
		parent, name := filepath.Split(path) // which leaves ".." to those who know where links lead
		if name == "" || name == ".." {
			parent, name = path, ""
		}
		if parent, err = filepath.EvalSymlinks(parent); err != nil {
			return "", fmt.Errorf("mount point: %w", err)
		}
		path = filepath.Join(parent, name)
		if name == "" {
			return path, nil
		}
		target, err := os.Readlink(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("mount point: %w", err)
		case err != nil: // no link
			return path, nil
		case filepath.IsAbs(target):
			path = target
		default:
			path = parent + string(filepath.Separator) + target
		}
	}
	return "", fmt.Errorf("mount point %s: too many links", dir)
}

// trim takes "/" and "/." off the end of an absolute path: who resolves them looks at what is mounted there.
func trim(path string) string {
	for {
		short := strings.TrimSuffix(strings.TrimSuffix(path, "/."), "/")
		switch short {
		case "":
			return "/"
		case path:
			return path
		}
		path = short
	}
}
