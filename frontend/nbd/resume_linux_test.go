package nbd

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
)

func TestResumeRefuses(t *testing.T) {
	s := &Server{}
	defer s.Close()
	if err := s.AddExport(Export{Name: "d", Device: blockdevtest.NewMemory(make([]byte, 1<<20), nil)}); err != nil {
		t.Fatal(err)
	}
	if err := s.AddExport(Export{Name: "w", Device: blockdevtest.NewScratch(make([]byte, 1<<20))}); err != nil {
		t.Fatal(err)
	}
	good := ConnState{Version: 1, Export: "d", Size: 1 << 20, Structured: true}
	for want, change := range map[string]func(*ConnState){
		"state of version 2":      func(st *ConnState) { st.Version = 2 },
		"no such export":          func(st *ConnState) { st.Export = "other" },
		"the client was told 512": func(st *ConnState) { st.Size = 512 },
		"writable is true":        func(st *ConnState) { st.Export = "w" },
		"writable is false":       func(st *ConnState) { st.Writable = true },
		"bytes are pending":       func(st *ConnState) { st.Pending = make([]byte, inBytes+1) },
		"without structured":      func(st *ConnState) { st.Structured, st.Contexts = false, []string{"base:allocation"} },
		"not all known":           func(st *ConnState) { st.Contexts = []string{"base:allocation", "x:y"} },
	} {
		st := good
		change(&st)
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = s.Resume(t.Context(), Handed{st, pair[0]})
		_ = unix.Close(pair[1])
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := s.Resume(t.Context(), Handed{good, -1}); err == nil {
		t.Error("resumed without a socket")
	}
	if n := s.Stats().Connections; n != 0 {
		t.Errorf("%d connections are left", n)
	}
}
