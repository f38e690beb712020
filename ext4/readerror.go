package ext4

import (
	"errors"
	"fmt"
)

// A FormatError tells of a file system that is damaged, or is none. Reading
// methods wrap it.
type FormatError struct {
	Where string // such as "superblock", "inode 12", "block 77"
	What  string
}

func (e *FormatError) Error() string { return "ext4: " + e.Where + ": " + e.What }

// ErrUnsupported is wrapped by errors that tell of a sound file system, or a
// file in it, that needs a feature this package does not read.
var ErrUnsupported = errors.New("ext4: unsupported feature")

// ErrNeedsRecovery is returned by Open if the journal holds changes that
// were not carried out yet: mounting it for writing, or e2fsck, does that.
var ErrNeedsRecovery = errors.New("ext4: the journal needs recovery")

var (
	errNotDir       = errors.New("not a directory")
	errIsDir        = errors.New("is a directory")
	errLinkLoop     = errors.New("too many symbolic links")
	errNotSymlink   = errors.New("not a symbolic link")
	errNegativeSeek = errors.New("position before the start")
)

func damagedBlock(block uint64, format string, args ...any) error {
	return &FormatError{fmt.Sprintf("block %d", block), fmt.Sprintf(format, args...)}
}

func (v *inodeView) damaged(format string, args ...any) error {
	return &FormatError{fmt.Sprintf("inode %d", v.Number), fmt.Sprintf(format, args...)}
}

func (v *inodeView) unsupported(what string) error {
	return fmt.Errorf("%w: inode %d: %s", ErrUnsupported, v.Number, what)
}
