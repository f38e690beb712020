package cachedclient

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// Variable is the environment variable with the path of the daemon's socket, or
// None.
const Variable = "RIVULET_CACHED"

// None is the address that means: no host cache.
const None = "none"

// SocketName is the name of the daemon's socket in a runtime folder.
const SocketName = "cached.sock"

// findTime is how long a daemon at a usual place may take to show that it is
// there.
const findTime = time.Second

// usual returns where a daemon may listen that nobody named: for this user, or
// for the host.
func usual() (sockets []string) {
	if base := os.Getenv("XDG_RUNTIME_DIR"); base != "" {
		sockets = append(sockets, filepath.Join(base, "rivulet", SocketName))
	} else if os.Geteuid() != 0 || runtime.GOOS != "linux" {
		// Anybody may have made this one, to be handed requests with credentials.
		if dir := filepath.Join(os.TempDir(), fmt.Sprintf("rivulet-%d", os.Geteuid())); ownedAlone(dir) {
			sockets = append(sockets, filepath.Join(dir, SocketName))
		}
	}
	if runtime.GOOS == "linux" {
		sockets = append(sockets, filepath.Join("/run/rivulet", SocketName))
	}
	return sockets
}

// ownedAlone reports whether dir is a folder of this user's that nobody else can
// write to.
func ownedAlone(dir string) bool {
	info, err := os.Lstat(dir)
	if err != nil {
		return false
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.IsDir() && info.Mode()&0o022 == 0 && int(owner.Uid) == os.Geteuid()
}

// Find returns a client of the host cache at address: a socket's path, None, or
// "" for what the environment says, or else for a usual place. It returns nil if
// none is to be used, or none was named and none answers. One that was named need
// not answer yet. c.Socket is not used.
func Find(ctx context.Context, address string, c Config) *Client {
	if address == "" {
		address = os.Getenv(Variable)
	}
	if address == None {
		return nil
	}
	if address != "" {
		c.Socket = address
		return New(c)
	}
	ctx, cancel := context.WithTimeout(ctx, findTime)
	defer cancel()
	for _, c.Socket = range usual() {
		if _, err := os.Stat(c.Socket); err != nil {
			continue
		}
		quiet := c
		quiet.Logger = nil
		probe := New(quiet)
		err := probe.Ping(ctx)
		probe.Close()
		if err == nil {
			return New(c)
		}
	}
	return nil
}
