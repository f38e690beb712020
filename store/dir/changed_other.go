//go:build !linux

package dir

import (
	"io/fs"
	"time"
)

// changed does not know when a file's inode changed last, and takes every file for
// new.
func changed(fs.FileInfo) time.Time { return time.Now() }
