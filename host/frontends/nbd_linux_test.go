package frontends

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/frontend/nbd/nbdclient"
	"github.com/rivuletfs/rivulet/host"
)

func (s *stage) nbd() *NBD { return &NBD{Keeper: s.keeper, Logger: s.log} }

func TestNBDTakenOver(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 1)
	s := newStage(t, blockdevtest.NewMemory(want, nil))
	for _, where := range []string{"unix:" + filepath.Join(t.TempDir(), "s"), "tcp::0"} {
		s.state = nil
		n := s.nbd()
		first := s.must(s.offer(n, where, "a", nil))
		s.must(s.offer(n, where, "b", func(o *host.Offer) { o.ID = "b2" }))
		c, err := nbdclient.Dial(t.Context(), first.Address())
		if err != nil {
			t.Fatal(err)
		}
		in := s.release(n)
		n = s.nbd()
		o := s.must(s.offer(n, where, "a", again(in)))
		if o.Address() != first.Address() {
			t.Errorf("was at %s, is at %s", first.Address(), o.Address())
		}
		got := make([]byte, 4096)
		if _, err := c.ReadAt(got, 8192); err != nil || !bytes.Equal(got, want[8192:8192+4096]) {
			t.Errorf("%s: read of a client that went along: %v", where, err)
		}
		soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := o.Detach(soon, false); !errors.Is(err, host.ErrBusy) {
			t.Errorf("detach with a client: %v", err)
		}
		cancel()
		_ = c.Close()
		// Without descriptors, after a crash, it is where it was.
		s.release(n).Close()
		n = s.nbd()
		o = s.must(s.offer(n, where, "a", again(nil)))
		if o.Address() != first.Address() {
			t.Errorf("was at %s, is at %s", first.Address(), o.Address())
		}
		s.detach(o)
		if path, isUnix := strings.CutPrefix(where, "unix:"); isUnix {
			if _, err := os.Lstat(path); err == nil {
				t.Error("the socket is left")
			}
		}
	}
}

// TestNBDMany offers a thousand disks at once, at one address, and has a client of each.
func TestNBDMany(t *testing.T) {
	const many = 1000
	s := newStage(t, blockdevtest.NewMemory(blockdevtest.Pattern(4096, 1), nil))
	n := s.nbd()
	where := "unix:" + filepath.Join(t.TempDir(), "s")
	var all errgroup.Group
	offered, clients := make([]host.Offered, many), make([]*nbdclient.Client, many)
	for i := range many {
		all.Go(func() (err error) {
			offered[i], err = n.Offer(t.Context(), host.Offer{
				ID: fmt.Sprint("a", i), Where: where, Name: fmt.Sprint("disk", i), Disk: "sha256:1", Device: s.device,
				Save: func(json.RawMessage) error { return nil },
			})
			if err == nil {
				err = n.Begin()
			}
			if err == nil {
				clients[i], err = nbdclient.Dial(t.Context(), offered[i].Address())
			}
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
	if got := n.Stats(); got.Connections != many || got.Refused != 0 {
		t.Errorf("%d connections, and %d refused", got.Connections, got.Refused)
	}
	for i := range many {
		if clients[i] != nil {
			_ = clients[i].Close()
		}
		if offered[i] != nil {
			all.Go(func() error { return offered[i].Detach(t.Context(), false) })
		}
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
}

func TestNBDMistakes(t *testing.T) {
	s := newStage(t, blockdevtest.NewMemory(make([]byte, 1<<20), nil))
	n := s.nbd()
	where := "unix:" + filepath.Join(t.TempDir(), "s")
	o := s.must(s.offer(n, where, "a", nil))
	for what, change := range map[string]func(*host.Offer){
		"the same name": func(*host.Offer) {},
		"with TLS":      func(o *host.Offer) { o.TLS = &host.TLS{Certificate: "x", Key: "y"} },
		"bad name":      func(o *host.Offer) { o.Name = "a\x00b" },
	} {
		if _, err := s.offer(n, where, "a", change); !errors.As(err, new(host.SpecError)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, bad := range []string{"ftp:x", "unix:" + filepath.Join(t.TempDir(), "no", "folder")} {
		if _, err := s.offer(n, bad, "a", nil); err == nil {
			t.Errorf("offered at %s", bad)
		}
	}
	if _, err := s.offer(n, "tcp::0", "a", func(o *host.Offer) { o.TLS = &host.TLS{Certificate: "nosuch", Key: "nosuch"} }); err == nil {
		t.Error("offered with a certificate that is not there")
	}
	s.detach(o)
}

// TestNBDListenerFails ends what was offered there.
func TestNBDListenerFails(t *testing.T) {
	s := newStage(t, blockdevtest.NewMemory(make([]byte, 1<<20), nil))
	n := s.nbd()
	where := "unix:" + filepath.Join(t.TempDir(), "s")
	o := s.must(s.offer(n, where, "a", nil))
	n.mu.Lock()
	_ = n.servers[where].listeners[0].Close()
	n.mu.Unlock()
	<-o.Done()
	if o.Err() == nil {
		t.Error("no reason")
	}
	s.detach(o)
}
