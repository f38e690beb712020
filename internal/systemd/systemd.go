// Package systemd speaks with the service manager that started this process:
// sd_listen_fds(3), sd_notify(3) and, by way of both, the store of descriptors
// that it keeps for a service over restarts (FileDescriptorStoreMax= in
// systemd.service(5)). Without systemd, all does nothing.
package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/internal/fdpass"
)

const (
	firstInherited = 3 // descriptor
	maxInherited   = 16384
)

// An Inherited is a descriptor that systemd passed, with the name it has there:
// of a socket unit, of FDNAME, or "unknown".
type Inherited struct {
	Name string
	File *fdpass.File
}

// Take returns what systemd, or who follows its protocol, has opened or kept
// for this process: nothing if it has not. It clears the variables that tell
// of it, so that only the first call finds any, and children none.
func Take() ([]Inherited, error) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(name)
	}
	if pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > maxInherited {
		return nil, fmt.Errorf("inherit descriptors: LISTEN_FDS is %q", count)
	}
	list := strings.Split(names, ":")
	all := make([]Inherited, n)
	for i := range all {
		fd := firstInherited + i
		unix.CloseOnExec(fd)
		all[i] = Inherited{Name: "unknown", File: fdpass.NewFile(fd)}
		if i < len(list) && list[i] != "" {
			all[i].Name = list[i]
		}
	}
	return all, nil
}

// TakeListeners is Take for a service that is given nothing but listening sockets.
// If one is none, that is an error, and nothing stays open.
func TakeListeners() ([]net.Listener, error) {
	all, err := Take()
	if err != nil {
		return nil, err
	}
	var listeners []net.Listener
	var errs []error
	for i, in := range all {
		ln, err := in.File.Listener()
		_ = in.File.Close()
		if err != nil {
			errs = append(errs, fmt.Errorf("inherit listener %d: %w", firstInherited+i, err))
			continue
		}
		listeners = append(listeners, ln)
	}
	if err := errors.Join(errs...); err != nil {
		for _, ln := range listeners {
			_ = ln.Close()
		}
		return nil, err
	}
	return listeners, nil
}

// Notify tells systemd the state of this process, "READY=1" for instance
// (sd_notify(3)), with files that belong to it.
func Notify(state string, files ...*fdpass.File) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	// Package net does not send descriptors on such sockets.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err == nil {
		unix.CloseOnExec(fd)
		limit := unix.NsecToTimeval(int64(5 * time.Second))
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
		if err == nil {
			err = unix.Sendmsg(fd, []byte(state), fdpass.Rights(files), &unix.SockaddrUnix{Name: path}, 0)
		}
		_ = unix.Close(fd)
	}
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}
