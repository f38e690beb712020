package kernelnbd

import (
	"errors"
	"fmt"
	"time"
)

// Errors that callers branch on.
var (
	// ErrUnsupported says that the kernel has no NBD client that can be told by netlink.
	ErrUnsupported = errors.New("no NBD client in this kernel (modprobe nbd)")
	// ErrNotFound says that no device has an identity.
	ErrNotFound = errors.New("no such NBD device")
)

// MaxIdentity bounds an identity, in bytes.
const MaxIdentity = 64

// Options of Connect.
type Options struct {
	// Size is the disk's, in bytes, a multiple of BlockSize.
	Size int64
	// BlockSize is the device's logical block in bytes: 512, 1024, 2048 or 4096.
	BlockSize int
	// Writable has the device take writes, flushes and discards.
	Writable bool
	// ReadAhead is how many bytes the kernel reads ahead.
	ReadAhead int
	// Identity is what Find finds the device by: printable, without blanks.
	Identity string
	// Patience is how long reads wait for another server when theirs has died. Those that it had been asked for
	// wait on, for another one or for Disconnect. 0: reads fail, those that it had been asked for after deadTimeout.
	Patience time.Duration
}

// deadTimeout is how long a server that is never replaced may take for a read. It is more than a
// disk takes until it gives a read up.
const deadTimeout = 90 * time.Second

func (o *Options) check() error {
	switch o.BlockSize {
	case 512, 1024, 2048, 4096:
	default:
		return fmt.Errorf("block size %d", o.BlockSize)
	}
	if o.Size <= 0 || o.Size%int64(o.BlockSize) != 0 {
		return fmt.Errorf("%d bytes are no multiple of the block size %d", o.Size, o.BlockSize)
	}
	if o.Patience < 0 || o.ReadAhead < 0 {
		return fmt.Errorf("patience %v, readahead %d", o.Patience, o.ReadAhead)
	}
	return checkIdentity(o.Identity)
}

func checkIdentity(s string) error {
	if s == "" || len(s) > MaxIdentity {
		return fmt.Errorf("identity %q: want 1 to %d bytes", s, MaxIdentity)
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return fmt.Errorf("identity %q: want printable letters", s)
		}
	}
	return nil
}
