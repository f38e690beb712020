// Package runtimedir says in which folder a user's sockets and mounts lie, and
// whether it can be trusted: whoever else may write to it could put a socket of
// their own there, to be handed requests with credentials.
package runtimedir

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// Host is root's folder on Linux, in which all users look for what runs for the
// whole host.
const Host = "/run/rivulet"

// Path returns the folder of this user, which need not be there: rivulet in
// XDG_RUNTIME_DIR, without that one Host for root on Linux, else rivulet-UID in
// the temporary folder.
func Path() string {
	if base := os.Getenv("XDG_RUNTIME_DIR"); base != "" {
		return filepath.Join(base, "rivulet")
	}
	if os.Geteuid() == 0 && runtime.GOOS == "linux" {
		return Host
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("rivulet-%d", os.Geteuid()))
}

// Make returns the folder of this user as an absolute path, and makes it if need
// be. It refuses one that Check refuses.
func Make() (string, error) {
	dir, err := filepath.Abs(Path())
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return "", fmt.Errorf("runtime folder: %w", err)
	}
	if err := Check(dir); err != nil {
		return "", err
	}
	return dir, nil
}

// Check refuses a folder that others could put files into: in a shared temporary
// folder anybody may have made it first. A link to a folder is refused too.
func Check(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("runtime folder: %w", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode()&0o022 != 0 || !ok || int(owner.Uid) != os.Geteuid() {
		return fmt.Errorf("runtime folder %s: others may write to it; set XDG_RUNTIME_DIR to a folder of your own", dir)
	}
	return nil
}
