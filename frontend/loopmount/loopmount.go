package loopmount

import (
	"errors"
	"fmt"
)

// Errors that callers branch on.
var (
	// ErrBusy says that the mounted file system is in use.
	ErrBusy = errors.New("the mount is in use")
	// ErrNotMounted says that nothing of ours is mounted at a directory.
	ErrNotMounted = errors.New("no loop-mounted file system here")
	// ErrNeedsLinux is what all functions return on other systems.
	ErrNeedsLinux = errors.New("loop devices need Linux")
)

// Options of Attach and Mount; the zero value is good.
type Options struct {
	// BlockSize is the device's logical block in bytes: 512, 1024, 2048 or
	// 4096; 0 is 512. The file's size should be a multiple of it: the kernel
	// does not show the rest.
	BlockSize int
	// ReadAhead is how many bytes the kernel reads ahead on the device, a
	// multiple of 4096: 0 leaves the kernel's choice, negative is none.
	ReadAhead int
	// Writable has the device be written to, and the file system mounted for it, which
	// replays its journal.
	Writable bool
}

func (o Options) check() (Options, error) {
	switch o.BlockSize {
	case 0:
		o.BlockSize = 512
	case 512, 1024, 2048, 4096:
	default:
		return o, fmt.Errorf("loop block size %d: not 512, 1024, 2048 or 4096", o.BlockSize)
	}
	if o.ReadAhead%4096 != 0 && o.ReadAhead > 0 {
		return o, fmt.Errorf("loop readahead of %d bytes: not a multiple of 4096", o.ReadAhead)
	}
	return o, nil
}

// A Mounted is a file system that Mount or MountDevice mounted, in this process or another. Only
// Find tells of the holder.
type Mounted struct {
	Dir        string // mount point, absolute
	Device     string // /dev/loopN, or what MountDevice was given
	File       string // what a loop device reads, absolute; "" if detached
	HolderDir  string // mount point of the file system that File lies on
	HolderType string // type of that file system
	// Same reports whether Device is still the one that was mounted; nil: as far as its name and File tell.
	Same func() bool

	id int // the kernel's, of the mount; 0 if it does not tell
}
