package cached

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxGroups is how many groups a process can have (NGROUPS_MAX).
const maxGroups = 65536

// credentials returns who connected the other end of a socket (SO_PEERCRED,
// SO_PEERGROUPS; unix(7), socket(7)).
func credentials(fd int) (peer, []int, error) {
	c, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return peer{}, nil, err
	}
	groups := []int{int(c.Gid)}
	list := make([]uint32, 32)
	for {
		size := uint32(4 * len(list))
		_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&list[0])), uintptr(unsafe.Pointer(&size)), 0)
		if errors.Is(e, unix.ERANGE) && int(size/4) > len(list) && size/4 <= maxGroups {
			list = make([]uint32, size/4)
			continue
		}
		if e != 0 {
			break // an old kernel: the one group has to do
		}
		for _, g := range list[:size/4] {
			groups = append(groups, int(g))
		}
		break
	}
	return peer{pid: int(c.Pid), uid: int(c.Uid)}, groups, nil
}
