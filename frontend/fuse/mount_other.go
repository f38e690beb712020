//go:build !linux

package fuse

// Mount needs Linux.
func Mount(string, Options) (*Session, error) { return nil, ErrNeedsLinux }

// Resume needs Linux.
func Resume(int, State, []Disk, Options) (*Session, error) { return nil, ErrNeedsLinux }

func unmount(string, string, bool) error { return ErrNeedsLinux }
