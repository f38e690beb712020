package blockdevtest

import (
	"bytes"
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
