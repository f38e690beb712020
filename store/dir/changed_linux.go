package dir

import (
	"io/fs"
	"syscall"
	"time"
)

// changed returns when a file's inode changed last, as it does with every name
// that the file gets.
func changed(info fs.FileInfo) time.Time {
	t := info.Sys().(*syscall.Stat_t).Ctim
	return time.Unix(t.Unix())
}
