//go:build !linux

package loopmount

import "context"

// A Loop needs Linux.
type Loop struct {
	Device   string
	DirectIO bool
}

// Attach needs Linux.
func Attach(context.Context, string, Options) (*Loop, error) { return nil, ErrNeedsLinux }

// Close needs Linux.
func (*Loop) Close() error { return ErrNeedsLinux }

// Mount needs Linux.
func Mount(context.Context, string, string, Options) (*Mounted, error) { return nil, ErrNeedsLinux }

// MountDevice needs Linux.
func MountDevice(string, string, bool) (*Mounted, error) { return nil, ErrNeedsLinux }

// Find needs Linux.
func Find(string) (*Mounted, error) { return nil, ErrNeedsLinux }

// FindDevice needs Linux.
func FindDevice(string, string) (*Mounted, error) { return nil, ErrNeedsLinux }

// FindFile needs Linux.
func FindFile(string, string) (*Mounted, error) { return nil, ErrNeedsLinux }

// Sync needs Linux.
func (*Mounted) Sync() error { return ErrNeedsLinux }

// Unmount needs Linux.
func (*Mounted) Unmount(context.Context) error { return ErrNeedsLinux }

// Detach needs Linux.
func (*Mounted) Detach() error { return ErrNeedsLinux }

// AwaitUnmount needs Linux.
func (*Mounted) AwaitUnmount(context.Context) error { return ErrNeedsLinux }

// Free needs Linux.
func (*Mounted) Free() (blocks, size int64, err error) { return 0, 0, ErrNeedsLinux }

// Reserve needs Linux.
func (*Mounted) Reserve(int64) error { return ErrNeedsLinux }

// Stay needs Linux.
func (*Loop) Stay() error { return ErrNeedsLinux }

// Abandon needs Linux.
func Abandon(string) error { return ErrNeedsLinux }

// Clear needs Linux.
func Clear(string) error { return ErrNeedsLinux }

// BackingFile needs Linux.
func BackingFile(string) (string, error) { return "", ErrNeedsLinux }
