//go:build !linux

package fuse

// Mount needs Linux.
func Mount(string, Options) (*Session, error) { return nil, ErrNeedsLinux }

// Resume needs Linux.
func Resume(int, State, []Disk, Options) (*Session, error) { return nil, ErrNeedsLinux }

// Unmount needs Linux.
func Unmount(string) error { return ErrNeedsLinux }

func unmount(string, string, bool) error { return ErrNeedsLinux }

// UnmountLazily needs Linux.
func UnmountLazily(string) error { return ErrNeedsLinux }
