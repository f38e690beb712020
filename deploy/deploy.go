// Package deploy has what a node needs beside the programs: units of systemd, and what
// containerd is told.
package deploy

import "embed"

// Files are the units and containerd's configuration, as they lie in this folder.
//
//go:embed rivulet-agent.service rivulet-cached.service containerd/containerd-rivulet.service containerd/config.toml
var Files embed.FS
