package vm

import (
	"context"
	"errors"
	"os/exec"

	"github.com/rivuletfs/rivulet/vm/guest"
)

// A CloudHypervisor runs machines by Cloud Hypervisor, through its API (version
// 0.3.0 of its description). Their disks come over vhost-user-blk.
type CloudHypervisor struct {
	Program string // "": cloud-hypervisor in PATH
}

var _ VMM = CloudHypervisor{}

// Name returns "cloud-hypervisor".
func (CloudHypervisor) Name() string { return "cloud-hypervisor" }

// Transport returns guest.Vsock.
func (CloudHypervisor) Transport() string { return guest.Vsock }

// End returns guest.PowerOff: a guest that reboots is started again.
func (CloudHypervisor) End() string { return guest.PowerOff }

var errWantVhostUser = errors.New("this VMM takes a disk over vhost-user-blk only")

func (CloudHypervisor) check(m *Machine) error {
	if m.Drive.VhostUser == "" {
		return errWantVhostUser
	}
	return nil
}

func (CloudHypervisor) kernelArgs(m *Machine) []string {
	if m.Kernel.Arch == "arm64" {
		return []string{"console=ttyAMA0"}
	}
	return []string{"console=ttyS0"}
}

func (CloudHypervisor) device(*Machine) string { return "/dev/vda" }

func (c CloudHypervisor) command(m *Machine) (*exec.Cmd, error) {
	return command(c.Program, "cloud-hypervisor", "--api-socket", m.apiSocket())
}

// command finds a program.
func command(program, name string, args ...string) (*exec.Cmd, error) {
	if program == "" {
		program = name
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return nil, err
	}
	return exec.Command(path, args...), nil
}

func (c CloudHypervisor) boot(ctx context.Context, m *Machine) error {
	return put(ctx, m.apiSocket(), c.calls(m))
}

// What follows are the parts of Cloud Hypervisor's VmConfig that are used.
type (
	chVM struct {
		CPUs    chCPUs    `json:"cpus"`
		Memory  chMemory  `json:"memory"`
		Payload chPayload `json:"payload"`
		Disks   []chDisk  `json:"disks"`
		RNG     chRNG     `json:"rng"`
		Serial  chConsole `json:"serial"`
		Console chConsole `json:"console"`
		Vsock   chVsock   `json:"vsock"`
	}
	chCPUs struct {
		Boot int `json:"boot_vcpus"`
		Max  int `json:"max_vcpus"`
	}
	chMemory struct {
		Size   int64 `json:"size"`
		Shared bool  `json:"shared"`
	}
	chPayload struct {
		Kernel    string `json:"kernel"`
		Cmdline   string `json:"cmdline"`
		Initramfs string `json:"initramfs"`
	}
	chDisk struct {
		VhostUser bool   `json:"vhost_user"`
		Socket    string `json:"vhost_socket"`
		ReadOnly  bool   `json:"readonly"`
		Queues    int    `json:"num_queues"`
		QueueSize int    `json:"queue_size"`
	}
	chRNG struct {
		Source string `json:"src"`
	}
	chConsole struct {
		Mode string `json:"mode"`
	}
	chVsock struct {
		CID    int64  `json:"cid"`
		Socket string `json:"socket"`
	}
)

// calls make the machine and start it.
func (CloudHypervisor) calls(m *Machine) []call {
	config := chVM{
		CPUs:    chCPUs{Boot: m.CPUs, Max: m.CPUs},
		Memory:  chMemory{Size: m.mebibytes() << 20, Shared: true},
		Payload: chPayload{Kernel: m.Kernel.Image(), Cmdline: m.cmdline, Initramfs: m.initrd()},
		Disks:   []chDisk{{VhostUser: true, Socket: m.Drive.VhostUser, ReadOnly: !m.Drive.Writable, Queues: max(1, m.Drive.Queues), QueueSize: 128}},
		RNG:     chRNG{Source: "/dev/urandom"},
		Serial:  chConsole{Mode: "Tty"},
		Console: chConsole{Mode: "Off"},
		Vsock:   chVsock{CID: guestCID, Socket: m.vsockSocket()},
	}
	return []call{{"/api/v1/vm.create", config}, {"/api/v1/vm.boot", nil}}
}
