package blockdevtest

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev"
)

func TestDevices(t *testing.T) {
	want := Pattern(3<<20, 1)
	memory := NewMemory(want, func(page int64) bool { return page%7 < 3 })
	for name, d := range map[string]blockdev.Device{
		"Memory":  memory,
		"Flat":    blockdev.NewFlat(bytes.NewReader(want), int64(len(want))),
		"Slow":    &Slow{Device: memory},
		"Gate":    &Gate{Device: memory},
		"Failing": &Failing{Device: memory},
	} {
		t.Run(name, func(t *testing.T) {
			TestDevice(t, func(*testing.T) blockdev.Device { return d }, want)
		})
	}
}

func TestScratch(t *testing.T) {
	want := Pattern(3<<20+512, 2)
	TestWriter(t, func(*testing.T) blockdev.Writer { return NewScratch(want) }, want)
}

func TestFile(t *testing.T) {
	want := Pattern(1<<20+512, 3)
	TestWriter(t, func(t *testing.T) blockdev.Writer {
		f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		if _, err := f.Write(append(bytes.Clone(want), "behind the device"...)); err != nil {
			t.Fatal(err)
		}
		return NewFile(f, int64(len(want)))
	}, want)
}

// TestScratchCrash checks what is left of a Scratch after a crash.
func TestScratchCrash(t *testing.T) {
	s := NewScratch(make([]byte, 1024))
	for i, p := range []string{"flushed", "lost"} {
		if _, err := s.WriteAt([]byte(p), int64(i)*512); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.FailFlush(errors.New("medium error"))
	if err := s.Flush(); err == nil {
		t.Error("Flush: no error")
	}
	s.Crash()
	p := make([]byte, 1024)
	if _, err := s.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	if got := string(bytes.ReplaceAll(p, []byte{0}, nil)); got != "flushed" {
		t.Errorf("left after a crash: %q", got)
	}
}
