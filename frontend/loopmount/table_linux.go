package loopmount

import (
	"strings"

	"github.com/moby/sys/mountinfo"
)

// at returns the mounts at dir, the topmost last.
func at(table []*mountinfo.Info, dir string) []*mountinfo.Info {
	var there []*mountinfo.Info
	for _, m := range table {
		if m.Mountpoint == dir {
			there = append(there, m)
		}
	}
	return there
}

// holding returns the mount that a file lies on: the last of those with the
// longest mount point above it; nil if there is none.
func holding(table []*mountinfo.Info, file string) (best *mountinfo.Info) {
	for _, m := range table {
		if within(file, m.Mountpoint) && (best == nil || len(m.Mountpoint) >= len(best.Mountpoint)) {
			best = m
		}
	}
	return best
}

func within(file, dir string) bool {
	return dir == "/" || file == dir || strings.HasPrefix(file, dir+"/")
}
