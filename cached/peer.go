package cached

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
)

// A peer is who is at the other end of a connection, as the kernel says.
type peer struct {
	pid, uid int
	admin    bool // may change what the cache holds
}

// identify returns who connected, or why they may not. The mode of the socket
// says the same; here it holds even if somebody changed that.
func (s *Server) identify(socket *net.UnixConn) (peer, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var p peer
	var groups []int
	var failed error
	err = raw.Control(func(fd uintptr) { p, groups, failed = credentials(int(fd)) })
	if err = errors.Join(err, failed); err != nil {
		return peer{}, fmt.Errorf("credentials of a client: %w", err)
	}
	p.admin = p.uid == os.Geteuid() || p.uid == 0
	if !p.admin && (s.group == 0 || !slices.Contains(groups, s.group)) {
		return peer{}, fmt.Errorf("process %d of user %d: not this user, not root, not of the group", p.pid, p.uid)
	}
	return p, nil
}

// again reports whether accepting may work later.
func again(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED) ||
		errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}
