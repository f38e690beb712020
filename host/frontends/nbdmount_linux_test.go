package frontends

import (
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/rivuletfs/rivulet/frontend/kernelnbd"
	"github.com/rivuletfs/rivulet/host"
)

// TestMountsGoOn stays with the way in which a disk was mounted, whatever is chosen by now.
func TestMountsGoOn(t *testing.T) {
	for _, c := range []struct {
		what  string
		offer host.Offer
		want  [2]bool // with FUSE chosen, with NBD chosen
	}{
		{"a new one", host.Offer{}, [2]bool{false, true}},
		{"by FUSE", host.Offer{Again: true, State: json.RawMessage(`{"session":{"version":1}}`)}, [2]bool{false, false}},
		{"by NBD", host.Offer{Again: true, State: json.RawMessage(`{"nbd_boot":"x"}`)}, [2]bool{true, true}},
		{"unfinished", host.Offer{Again: true}, [2]bool{false, true}},
	} {
		c.offer.ID = "none-has-this"
		for i, chosen := range []bool{false, true} {
			m := &Mounts{ByNBD: chosen}
			if got := m.byNBD(&c.offer); got != c.want[i] {
				t.Errorf("%s, NBD chosen %t: by NBD %t", c.what, chosen, got)
			}
		}
	}
}

// TestNBDMountWithout leaves nothing behind on a host whose kernel has no client. What is on hosts that have
// one is tried in a guest, by internal/e2e/kernelnbd.sh.
func TestNBDMountWithout(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: netlink")
	}
	if kernelnbd.Supported() == nil {
		t.Skip("needs a kernel without NBD: this one has it")
	}
	s := newStage(t, ext4Disk(t))
	m := &NBDMount{Logger: s.log}
	dir := t.TempDir()
	for range 2 { // also a second time: the export is gone
		if _, err := s.offer(m, dir, "", nil); !errors.Is(err, kernelnbd.ErrUnsupported) {
			t.Errorf("mounted without a client: %v", err)
		}
	}
	if s.state != nil || mounted(t, dir) {
		t.Errorf("state %s is kept, or it is mounted", s.state)
	}
	if _, err := s.offer(m, "relative", "", nil); !errors.As(err, new(host.SpecError)) {
		t.Errorf("a relative directory: %v", err)
	}
	// One that was mounted in this boot, and whose mount and device are gone, was unmounted.
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	s.state = json.RawMessage(`{"nbd_boot":"` + boot + `"}`)
	if _, err := s.offer(m, dir, "", again(nil)); !errors.Is(err, host.ErrGone) {
		t.Errorf("what was unmounted: %v", err)
	}
	// After another one it is mounted anew.
	s.state = json.RawMessage(`{"nbd_boot":"another"}`)
	if _, err := s.offer(m, dir, "", again(nil)); !errors.Is(err, kernelnbd.ErrUnsupported) {
		t.Errorf("after a start of the machine: %v", err)
	}
	if in := s.release(m); in == nil {
		t.Error("not released")
	}
}
