package nbd

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// DefaultPort is the TCP port of NBD.
const DefaultPort = "10809"

// Listen opens a listener on an address of one of these forms:
//
//	unix:PATH
//	tcp:HOST:PORT    tcp:HOST    tcp::PORT    tcp:
//
// Without a host it is loopback, without a port DefaultPort; port 0 lets the
// system choose. A socket that is left at PATH from a server that has gone is
// replaced; one that somebody listens on, or anything else, is not. The socket
// is removed when the listener closes.
func Listen(addr string) (net.Listener, error) {
	network, rest, _ := strings.Cut(addr, ":")
	switch network {
	case "unix":
		return listenUnix(rest)
	case "tcp":
		return listenTCP(rest)
	}
	return nil, fmt.Errorf("listen on %q: address is neither unix:PATH nor tcp:HOST:PORT", addr)
}

func listenTCP(hostport string) (net.Listener, error) {
	host, port := hostport, DefaultPort
	if i := strings.LastIndexByte(hostport, ':'); i >= 0 && !strings.HasSuffix(hostport, "]") {
		host, port = hostport[:i], or(hostport[i+1:], DefaultPort)
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	ln, err := net.Listen("tcp", net.JoinHostPort(or(host, "127.0.0.1"), port))
	if err != nil {
		return nil, fmt.Errorf("listen on tcp:%s: %w", hostport, err)
	}
	return ln, nil
}

func listenUnix(path string) (net.Listener, error) {
	if path == "" {
		return nil, errors.New("listen on unix: path is empty")
	}
	ln, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && removeStale(path) {
		ln, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on unix:%s: %w", path, err)
	}
	return ln, nil
}

// removeStale removes the socket at path if nobody listens on it.
func removeStale(path string) bool {
	st, err := os.Lstat(path)
	if err != nil || st.Mode().Type() != fs.ModeSocket {
		return false
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close()
		return false
	}
	return errors.Is(err, syscall.ECONNREFUSED) && os.Remove(path) == nil
}

// firstInherited is the first descriptor of systemd's socket activation.
const firstInherited = 3

// Inherited returns the listeners that systemd, or who follows its protocol of
// socket activation (sd_listen_fds(3)), has opened for this process; none if it
// has not. It clears the variables that tell of them, so that only the first
// call finds any.
func Inherited() ([]net.Listener, error) {
	pid, count := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(name)
	}
	if pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > 1024 {
		return nil, fmt.Errorf("inherit listeners: LISTEN_FDS is %q", count)
	}
	var all []net.Listener
	for fd := firstInherited; fd < firstInherited+n; fd++ {
		f := os.NewFile(uintptr(fd), "inherited socket")
		ln, err := net.FileListener(f) // has its own copy, closed on exec
		_ = f.Close()
		if err != nil {
			for _, ln := range all {
				_ = ln.Close()
			}
			for rest := fd + 1; rest < firstInherited+n; rest++ {
				_ = os.NewFile(uintptr(rest), "inherited socket").Close()
			}
			return nil, fmt.Errorf("inherit listener %d: %w", fd, err)
		}
		all = append(all, ln)
	}
	return all, nil
}

// Notify tells systemd the state of this process, "READY=1" for instance
// (sd_notify(3)). Without systemd it does nothing.
func Notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	c, err := net.Dial("unixgram", path) // "@" is the abstract namespace here too
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	_, err = c.Write([]byte(state))
	if cerr := c.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}
