package vm

import (
	"context"
	"errors"
	"os/exec"

	"github.com/rivuletfs/rivulet/vm/guest"
)

// A Firecracker runs machines by Firecracker, through its API (version 1.17 of its
// description; vhost-user drives came with 1.5). Their disks come over
// vhost-user-blk.
type Firecracker struct {
	Program string // "": firecracker in PATH
}

var _ VMM = Firecracker{}

// Name returns "firecracker".
func (Firecracker) Name() string { return "firecracker" }

// Transport returns guest.Vsock.
func (Firecracker) Transport() string { return guest.Vsock }

// End returns guest.Reboot: it has no power to switch off.
func (Firecracker) End() string { return guest.Reboot }

func (Firecracker) check(m *Machine) error {
	if m.Drive.VhostUser == "" {
		return errWantVhostUser
	}
	if m.CPUs > 32 {
		return errors.New("this VMM gives a machine at most 32 processors")
	}
	return nil
}

func (Firecracker) kernelArgs(m *Machine) []string {
	args := []string{"console=ttyS0", "reboot=k"}
	if m.Kernel.Arch == "amd64" {
		args = append(args, "pci=off")
	}
	return args
}

func (Firecracker) device(*Machine) string { return "/dev/vda" }

func (f Firecracker) command(m *Machine) (*exec.Cmd, error) {
	return command(f.Program, "firecracker", "--api-sock", m.apiSocket())
}

func (f Firecracker) boot(ctx context.Context, m *Machine) error {
	return put(ctx, m.apiSocket(), f.calls(m))
}

// What follows are the parts of Firecracker's definitions that are used.
type (
	fcMachine struct {
		CPUs   int   `json:"vcpu_count"`
		Memory int64 `json:"mem_size_mib"`
	}
	fcBoot struct {
		Kernel string `json:"kernel_image_path"`
		Initrd string `json:"initrd_path"`
		Args   string `json:"boot_args"`
	}
	fcDrive struct {
		ID     string `json:"drive_id"`
		Root   bool   `json:"is_root_device"` // the initrd mounts it
		Socket string `json:"socket"`
		Cache  string `json:"cache_type"` // Writeback: flushes are passed on
	}
	fcVsock struct {
		CID    int64  `json:"guest_cid"`
		Socket string `json:"uds_path"`
	}
	fcEntropy struct{}
	fcAction  struct {
		Type string `json:"action_type"`
	}
)

// calls make the machine and start it.
func (Firecracker) calls(m *Machine) []call {
	return []call{
		{"/machine-config", fcMachine{CPUs: m.CPUs, Memory: m.mebibytes()}},
		{"/boot-source", fcBoot{Kernel: m.Kernel.ELF(), Initrd: m.initrd(), Args: m.cmdline}},
		{"/drives/disk", fcDrive{ID: "disk", Socket: m.Drive.VhostUser, Cache: "Writeback"}},
		{"/vsock", fcVsock{CID: guestCID, Socket: m.vsockSocket()}},
		{"/entropy", fcEntropy{}},
		{"/actions", fcAction{Type: "InstanceStart"}},
	}
}
