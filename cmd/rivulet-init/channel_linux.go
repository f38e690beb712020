package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/vm/guest"
)

// channels are the open channels to the host. The descriptors of all but control
// block, since a process inherits them.
type channels struct {
	control, input, output, errors *os.File
}

func openChannels(transport string) (*channels, error) {
	open := openSerial
	if transport == guest.Vsock {
		open = openVsock
	}
	ch := new(channels)
	for _, c := range []struct {
		to   **os.File
		what guest.Channel
	}{{&ch.control, guest.Control}, {&ch.input, guest.Input}, {&ch.output, guest.Output}, {&ch.errors, guest.Errors}} {
		f, err := open(c.what)
		if err != nil {
			return nil, fmt.Errorf("open channel %s: %w", c.what.Name, err)
		}
		*c.to = f
	}
	return ch, nil
}

// openSerial opens the virtio-serial port of a channel.
func openSerial(c guest.Channel) (*os.File, error) {
	const ports = "/sys/class/virtio-ports"
	for begin := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		names, err := filepath.Glob(ports + "/*/name")
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			b, err := os.ReadFile(n)
			if err != nil || strings.TrimSpace(string(b)) != c.SerialName() {
				continue
			}
			device := "/dev/" + filepath.Base(filepath.Dir(n))
			if err := await(device); err != nil {
				return nil, err
			}
			fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, fmt.Errorf("open %s: %w", device, err)
			}
			return os.NewFile(uintptr(fd), device), nil
		}
		if time.Since(begin) > deviceTime {
			return nil, fmt.Errorf("no virtio-serial port has the name %s", c.SerialName())
		}
	}
}

// openVsock connects to the host.
func openVsock(c guest.Channel) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("vsock: %w", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: c.Port}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("connect to the host, port %d: %w", c.Port, err)
	}
	return os.NewFile(uintptr(fd), c.Name), nil
}
