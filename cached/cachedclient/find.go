package cachedclient

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/rivuletfs/rivulet/internal/runtimedir"
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
	if dir := runtimedir.Path(); dir != runtimedir.Host && runtimedir.Check(dir) == nil {
		sockets = append(sockets, filepath.Join(dir, SocketName))
	}
	if runtime.GOOS == "linux" {
		sockets = append(sockets, filepath.Join(runtimedir.Host, SocketName))
	}
	return sockets
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
