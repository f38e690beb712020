package fuse

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// mountHelper mounts through the setuid program fusermount3 or fusermount. It
// opens /dev/fuse for us and sends the descriptor over a socket, whose number
// it finds in _FUSE_COMMFD.
func mountHelper(st State) (fd int, helper string, err error) {
	if st.AllowOther {
		return -1, "", errors.New("mount for every user: needs root")
	}
	helper, err = findHelper()
	if err != nil {
		return -1, "", err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, "", fmt.Errorf("mount %s: socket pair: %w", st.Dir, err)
	}
	ours, theirs := pair[0], os.NewFile(uintptr(pair[1]), "fusermount socket")
	defer func() { _ = unix.Close(ours) }()

	access := "ro"
	if st.Writable {
		access = "rw"
	}
	options := fmt.Sprintf("%s,nosuid,nodev,fsname=rivulet,subtype=rivulet,default_permissions,max_read=%d", access, MaxRead)
	cmd := exec.Command(helper, "-o", options, "--", st.Dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	err = run(cmd)
	_ = theirs.Close() // so that the receive below cannot wait for ever
	if err != nil {
		return -1, "", fmt.Errorf("mount %s: %w", st.Dir, err)
	}
	fd, err = receive(ours)
	if err != nil {
		return -1, "", fmt.Errorf("mount %s: descriptor from %s: %w", st.Dir, helper, err)
	}
	return fd, helper, nil
}

func findHelper() (string, error) {
	for _, name := range []string{"fusermount3", "fusermount"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("mounting without root needs fusermount3 (package fuse3) in PATH")
}

// run adds what the program said to its error.
func run(cmd *exec.Cmd) error {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w: %s", cmd.Path, err, strings.TrimSpace(stderr.String()))
}

// receive takes one descriptor from a socket.
func receive(socket int) (int, error) {
	data := make([]byte, 1)
	control := make([]byte, unix.CmsgSpace(4))
	var n int
	for {
		var err error
		_, n, _, _, err = unix.Recvmsg(socket, data, control, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return -1, fmt.Errorf("receive: %w", err)
		}
		break
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return -1, fmt.Errorf("parse control message: %w", err)
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil && len(fds) == 1 {
			return fds[0], nil
		}
	}
	return -1, errors.New("none was sent")
}

func unmountHelper(dir, helper string, lazy bool) error {
	args := []string{"-u", "--", dir}
	if lazy {
		args = append([]string{"-z"}, args...)
	}
	err := run(exec.Command(helper, args...))
	if err == nil {
		return nil
	}
	// The helper tells by words only, in English.
	if strings.Contains(err.Error(), "busy") {
		err = fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return fmt.Errorf("unmount %s: %w", dir, err)
}
