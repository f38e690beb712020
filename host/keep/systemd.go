package keep

import (
	"fmt"
	"os"

	"github.com/rivuletfs/rivulet/internal/fdpass"
	"github.com/rivuletfs/rivulet/internal/systemd"
)

// Systemd is systemd's store of descriptors (sd_pid_notify_with_fds(3)).
// It drops by itself what hangs up, as a mount's descriptor does when it is
// unmounted, and everything when the service is stopped.
type Systemd struct{}

var _ Keeper = Systemd{}

// HasSystemd reports whether systemd has said that it keeps descriptors of this
// process. It says so from version 254 on; older ones do it without saying.
func HasSystemd() bool { return os.Getenv("NOTIFY_SOCKET") != "" && os.Getenv("FDSTORE") != "" }

// NewSystemd returns the store, and what it kept of the process before.
func NewSystemd(passed []systemd.Inherited) (Systemd, *Inherited) {
	in := &Inherited{}
	for _, p := range passed {
		in.Add(Descriptor{Name: p.Name, File: p.File})
	}
	return Systemd{}, in
}

// Keep implements [Keeper].
func (s Systemd) Keep(name string, f *fdpass.File) error {
	if err := checkName(name); err != nil {
		return err
	}
	// Names are not unique in the store.
	if err := s.Forget(name); err != nil {
		return err
	}
	if err := systemd.Notify("FDSTORE=1\nFDNAME="+name, f); err != nil {
		return fmt.Errorf("keep descriptor %s: %w", name, err)
	}
	return nil
}

// Forget implements [Keeper].
func (Systemd) Forget(name string) error {
	if err := systemd.Notify("FDSTOREREMOVE=1\nFDNAME=" + name); err != nil {
		return fmt.Errorf("forget descriptor %s: %w", name, err)
	}
	return nil
}

// Close implements [Keeper].
func (Systemd) Close() error { return nil }
