package nbd

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
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
