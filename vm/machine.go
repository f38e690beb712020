package vm

import (
	"context"
	"os/exec"
	"path/filepath"

	"github.com/rivuletfs/rivulet/vm/guest"
)

// A Drive is where a machine's disk is offered. One of the addresses is set.
type Drive struct {
	NBD       string // URI: nbd+unix:///NAME?socket=PATH
	VhostUser string // socket of a vhost-user-blk backend
	Queues    int    // of the backend; 0: one
	Writable  bool
}

// A Machine is a virtual machine that is to be started.
type Machine struct {
	Kernel *Kernel
	Drive  Drive
	Memory int64 // bytes, a multiple of 1 MiB
	CPUs   int

	dir     string // of sockets, initrd and console
	cmdline string // the kernel's
}

// initrd is the path of the initial RAM file system.
func (m *Machine) initrd() string { return filepath.Join(m.dir, "initrd") }

// serialSocket is where the host listens for a channel's virtio-serial port.
func (m *Machine) serialSocket(c guest.Channel) string { return filepath.Join(m.dir, c.Name) }

// vsockSocket is the path that a VMM's vsock device is given: it connects to this,
// "_" and the port's number.
func (m *Machine) vsockSocket() string { return filepath.Join(m.dir, "vsock") }

func (m *Machine) apiSocket() string { return filepath.Join(m.dir, "api") }

func (m *Machine) mebibytes() int64 { return m.Memory >> 20 }

// guestCID is a guest's address: each has a vsock device of its own, so that it need
// not be unique.
const guestCID = 3

// A VMM runs machines.
type VMM interface {
	// Name is the VMM's, as on a command line.
	Name() string
	// Transport is what carries the channels: guest.Serial or guest.Vsock.
	Transport() string
	// End is how a guest ends its machine.
	End() string
	// check reports what of the machine this VMM cannot do.
	check(m *Machine) error
	// kernelArgs are those that the kernel needs on this VMM.
	kernelArgs(m *Machine) []string
	// device is the disk's name in the guest.
	device(m *Machine) string
	// command returns the VMM's program with its arguments, not started. It prints the
	// guest's console.
	command(m *Machine) (*exec.Cmd, error)
	// boot makes a VMM that runs start its guest.
	boot(ctx context.Context, m *Machine) error
}
