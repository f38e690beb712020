package frontends

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/vhostuserclient"
	"github.com/rivuletfs/rivulet/host"
)

func (s *stage) vhostUser() *VhostUser { return &VhostUser{Keeper: s.keeper, Logger: s.log} }

// TestVhostUserTakenOver has a front end that reads over hand-overs and a crash.
func TestVhostUserTakenOver(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 1)
	s := newStage(t, blockdevtest.NewMemory(want, nil))
	where := "unix:" + filepath.Join(t.TempDir(), "s")
	v := s.vhostUser()
	o := s.must(s.offer(v, where, "serial", nil))
	path := strings.TrimPrefix(o.Address(), "unix:")
	c, err := vhostuserclient.Dialer{Reconnect: true}.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	end := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		p := make([]byte, 4096)
		for i := int64(0); ; i++ {
			select {
			case <-end:
				return
			default:
			}
			off := i % 256 * 4096
			if _, err := c.ReadAt(p, off); err != nil || !bytes.Equal(p, want[off:off+4096]) {
				t.Errorf("read: %v", err)
				return
			}
		}
	})
	for i := range 4 {
		in := s.release(v)
		if i == 3 { // the descriptor is lost, as in a crash without a keeper
			in.Close()
		}
		v = s.vhostUser()
		o = s.must(s.offer(v, where, "serial", again(in)))
		for len(c.Gaps()) <= i && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
	}
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := o.Detach(soon, false); !errors.Is(err, host.ErrBusy) {
		t.Errorf("detach with a front end: %v", err)
	}
	close(end)
	reading.Wait()
	if text, err := c.Serial(); err != nil || text != "serial" {
		t.Errorf("serial number %q, %v", text, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	s.detach(o)
	if _, err := os.Lstat(path); err == nil || s.keeper.kept() != 0 {
		t.Errorf("the socket is left, or %d descriptors", s.keeper.kept())
	}
}

func TestVhostUserMistakes(t *testing.T) {
	s := newStage(t, blockdevtest.NewMemory(make([]byte, 1<<20), nil))
	for _, where := range []string{"tcp::0", "x"} {
		if _, err := s.offer(s.vhostUser(), where, "a", nil); !errors.As(err, new(host.SpecError)) {
			t.Errorf("offered at %s: %v", where, err)
		}
	}
	where := "unix:" + filepath.Join(t.TempDir(), "s")
	s.keeper.fails, s.keeper.holds = errors.New("the keeper is full"), true
	if _, err := s.offer(s.vhostUser(), where, "a", nil); !errors.Is(err, s.keeper.fails) || s.keeper.kept() != 0 {
		t.Errorf("offered, %v, with %d descriptors kept", err, s.keeper.kept())
	}
	s.keeper.fails = nil
	s.detach(s.must(s.offer(s.vhostUser(), where, "a", nil)))
}
