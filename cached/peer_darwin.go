package cached

import "golang.org/x/sys/unix"

// credentials returns who connected the other end of a socket (LOCAL_PEERCRED,
// LOCAL_PEERPID; unix(4)).
func credentials(fd int) (peer, []int, error) {
	c, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return peer{}, nil, err
	}
	var groups []int
	for _, g := range c.Groups[:min(int(c.Ngroups), len(c.Groups))] {
		groups = append(groups, int(g))
	}
	pid, _ := unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	return peer{pid: pid, uid: int(c.Uid)}, groups, nil
}
