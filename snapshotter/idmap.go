//go:build linux

package snapshotter

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// An idMap says by which users and groups a container in a user namespace of its own sees its
// files: the kernel maps them at the mount, so nothing is copied. The zero value maps none.
type idMap struct {
	options  []string // of mounts
	uid, gid int      // those that are the container's root
}

// idMapOf returns what the labels of a snapshot ask for, where containerd was told that it may
// (Config.RemapIDs): if it was not, it has mapped the files itself.
func (s *Snapshotter) idMapOf(labels map[string]string) (m idMap, err error) {
	uids, gids := labels[snapshots.LabelSnapshotUIDMapping], labels[snapshots.LabelSnapshotGIDMapping]
	if !s.cfg.RemapIDs || uids == "" && gids == "" {
		return m, nil
	}
	if m.uid, err = rootOf(uids); err != nil {
		return m, fmt.Errorf("label %s: %w", snapshots.LabelSnapshotUIDMapping, err)
	}
	if m.gid, err = rootOf(gids); err != nil {
		return m, fmt.Errorf("label %s: %w", snapshots.LabelSnapshotGIDMapping, err)
	}
	m.options = []string{"uidmap=" + uids, "gidmap=" + gids}
	return m, nil
}

// maxIDMaps bounds the parts of a map: the kernel takes no more.
const maxIDMaps = 340

// rootOf returns which ID of the host is 0 in a map: CONTAINER:HOST:SIZE, and more of that with
// commas between.
func rootOf(text string) (int, error) {
	parts := strings.Split(text, ",")
	if len(parts) > maxIDMaps {
		return 0, fmt.Errorf("a map of %d parts: at most %d are supported", len(parts), maxIDMaps)
	}
	root := -1
	for _, part := range parts {
		var n [3]uint64
		fields := strings.Split(part, ":")
		if len(fields) != len(n) {
			return 0, fmt.Errorf("map %.80q: want CONTAINER:HOST:SIZE", part)
		}
		for i, f := range fields {
			var err error
			if n[i], err = strconv.ParseUint(f, 10, 32); err != nil {
				return 0, fmt.Errorf("map %.80q: want CONTAINER:HOST:SIZE", part)
			}
		}
		if n[0] == 0 && n[2] > 0 {
			root = int(n[1])
		}
	}
	if root < 0 {
		return 0, fmt.Errorf("map %.80q: has no root", text)
	}
	return root, nil
}
