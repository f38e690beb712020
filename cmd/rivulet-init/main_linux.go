// Rivulet-init is the first process of a guest that 'rivulet vm run' starts. It
// mounts the disk, runs the process that the host names, and reports how that ended.
// Package vm/guest has what host and guest tell one another.
//
// It is process 1: what it cannot do ends the machine, with a message to the host,
// or else on the console.
package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/vm/guest"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "rivulet-init is the first process of a guest: 'rivulet vm run' starts it")
		os.Exit(1)
	}
	end := guest.Reboot
	if err := run(&end); err != nil {
		fmt.Fprintln(os.Stderr, "rivulet-init:", err)
	}
	halt(end)
}

// run does everything. It sets end as soon as that is known.
func run(end *string) error {
	if err := mountKernelFiles(); err != nil {
		return err
	}
	b, err := os.ReadFile(guest.ConfigPath)
	if err != nil {
		return err
	}
	c, err := guest.Decode(b)
	if err != nil {
		return err
	}
	*end = c.End
	if err := loadModules(c.Modules); err != nil {
		return err
	}
	ch, err := openChannels(c.Transport)
	if err != nil {
		return err
	}
	p, err := start(c, ch)
	if err != nil {
		return guest.Message{Failed: err.Error()}.Write(ch.control)
	}
	if err := (guest.Message{Started: true}).Write(ch.control); err != nil {
		return err
	}
	go p.obey(ch.control)
	exit := p.wait()
	unmount()
	return guest.Message{Exit: &exit}.Write(ch.control)
}

// start brings the root up and starts the process in it.
func start(c *guest.Config, ch *channels) (*process, error) {
	if err := mountRoot(c); err != nil {
		return nil, err
	}
	if err := enterRoot(); err != nil {
		return nil, err
	}
	if err := prepare(c); err != nil {
		return nil, err
	}
	return startProcess(&c.Process, ch)
}

// halt ends the machine. The host ends it too, once it has heard.
func halt(how string) {
	unix.Sync()
	command := unix.LINUX_REBOOT_CMD_RESTART
	if how == guest.PowerOff {
		command = unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	if err := unix.Reboot(command); err != nil {
		fmt.Fprintln(os.Stderr, "rivulet-init: end the machine:", err)
	}
	for {
		time.Sleep(time.Hour) // process 1 must not end: the kernel would panic
	}
}
