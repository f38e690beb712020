// Package node puts rivulet onto a machine, from a container on it, and takes it away again.
//
// What holds disks must outlive every container, its own included: an agent in a pod would
// end with it, and take away the mounts of all others. So the pod of a DaemonSet
// installs services of systemd, and nothing else runs in it.
package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/rivuletfs/rivulet/deploy"
)

// A Node is a machine whose files can be reached.
type Node struct {
	// Root is the folder that is the machine's "/".
	Root string
	// Programs is the folder with the programs to install.
	Programs string
	// Run runs a program of the machine, in its own view, and waits for it.
	Run func(ctx context.Context, program string, args ...string) error
	Log *slog.Logger
}

// Settings are the options of the services, as their command lines have them.
type Settings struct {
	Snapshotter string // of containerd-rivulet
	Cache       string // of rivulet cached
}

// Paths on the machine, without the leading slash.
const (
	recordPath  = "var/lib/rivulet/node.json"
	programsDir = "usr/local/bin"
	unitsDir    = "etc/systemd/system"
	mountsFile  = "proc/1/mountinfo"
	systemctl   = "systemctl"
)

// ownDirs are nobody else's, and go with what is in them: last the one with the record.
var ownDirs = []string{"run/rivulet", "var/cache/rivulet", "var/lib/rivulet"}

// units in the order in which they are started.
var units = []string{"rivulet-cached.service", "rivulet-agent.service", "containerd-rivulet.service"}

// A record is what was installed, kept on the machine.
type record struct {
	Version int               `json:"version"`
	Files   map[string]string `json:"files"`            // path → SHA-256 of what was written
	Before  map[string]string `json:"before,omitempty"` // path → that of what was there until then
	Dirs    []string          `json:"dirs"`             // that were made for them
	// Changed says that the services do not run yet with what was written.
	Changed bool `json:"changed,omitempty"`
}

const (
	recordVersion = 1
	maxRecord     = 1 << 20 // bytes
)

// A file is one to install.
type file struct {
	path string
	mode fs.FileMode
	data []byte
	// settings are what people change on the machine itself: then they stay as they are.
	settings bool
}

// Install puts programs, units and settings onto the machine and starts the services, anew if
// something has changed. It does nothing where all is as it should be. A file
// that is there and was not put there by it, is an error, and stays.
func (n *Node) Install(ctx context.Context, s Settings) error {
	root, err := os.OpenRoot(n.Root)
	if err != nil {
		return fmt.Errorf("install on the node: %w", err)
	}
	defer func() { _ = root.Close() }()
	files, err := n.files(s)
	if err != nil {
		return fmt.Errorf("install on the node: %w", err)
	}
	r, err := readRecord(root)
	if err != nil {
		return fmt.Errorf("install on the node: %w", err)
	}
	for _, f := range files {
		if err := r.mayWrite(root, f.path); err != nil {
			return fmt.Errorf("install on the node: %w", err)
		}
	}
	for _, f := range files {
		if f.settings && r.changedThere(root, f) {
			n.Log.Warn("settings were changed on the node, and stay so: remove the file to have those of the deployment", "file", "/"+f.path)
			if err := setMode(root, f); err != nil {
				return fmt.Errorf("install on the node: %w", err)
			}
			continue
		}
		if err := r.put(root, f); err != nil {
			return fmt.Errorf("install on the node: %w", err)
		}
	}
	if err := n.start(ctx, r.Changed); err != nil {
		return fmt.Errorf("install on the node: %w", err)
	}
	if !r.Changed {
		return nil
	}
	r.Changed = false
	for _, f := range files {
		if f.settings { // those of before are somebody's own choice from now on
			delete(r.Before, f.path)
		}
	}
	if err := r.write(root); err != nil {
		return fmt.Errorf("install on the node: %w", err)
	}
	return nil
}

// start has systemd run the services.
func (n *Node) start(ctx context.Context, changed bool) error {
	steps := [][]string{{"enable", "--now"}}
	if changed {
		n.Log.Info("files were installed")
		steps = [][]string{{"daemon-reload"}, {"enable", "--now"}}
	}
	for _, step := range steps {
		if step[0] == "enable" {
			step = append(step, units...)
		}
		if err := n.Run(ctx, systemctl, step...); err != nil {
			return fmt.Errorf("systemctl %s: %w", step[0], err)
		}
	}
	if !changed {
		return nil
	}
	// The agent hands over to its new version; the others can be started anew at any time.
	for _, args := range [][]string{{"reload-or-restart", units[1]}, {"restart", units[0], units[2]}} {
		if err := n.Run(ctx, systemctl, args...); err != nil {
			return fmt.Errorf("systemctl %s: %w", args[0], err)
		}
	}
	return nil
}

// files returns all that is installed.
func (n *Node) files(s Settings) ([]file, error) {
	var list []file
	for _, name := range []string{"rivulet", "containerd-rivulet"} {
		b, err := os.ReadFile(path.Join(n.Programs, name))
		if err != nil {
			return nil, err
		}
		list = append(list, file{path: path.Join(programsDir, name), mode: 0o755, data: b})
	}
	for from, to := range map[string]string{
		"rivulet-cached.service": unitsDir, "rivulet-agent.service": unitsDir,
		"containerd/containerd-rivulet.service": unitsDir, "containerd/config.toml": "etc/containerd/conf.d",
	} {
		b, err := deploy.Files.ReadFile(from)
		if err != nil {
			return nil, err
		}
		name := path.Base(from)
		if name == "config.toml" {
			name = "rivulet.toml"
			b = bytes.ReplaceAll(b, []byte("linux/amd64"), []byte("linux/"+runtime.GOARCH))
		}
		list = append(list, file{path: path.Join(to, name), mode: 0o644, data: b})
	}
	for name, line := range map[string]string{"rivulet-cached": "OPTIONS=" + s.Cache, "containerd-rivulet": "OPTIONS=" + s.Snapshotter} {
		if strings.ContainsAny(line, "\n\"'\\") {
			return nil, fmt.Errorf("options %q: quotes, backslashes and line feeds cannot be passed on", line)
		}
		list = append(list, file{path: path.Join("etc/default", name), mode: 0o600, data: []byte(line + "\n"), settings: true}) // there may be secrets in it
	}
	slices.SortFunc(list, func(a, b file) int { return strings.Compare(a.path, b.path) })
	return list, nil
}

// readRecord returns what was installed before, nothing if nothing was.
func readRecord(root *os.Root) (*record, error) {
	f, err := root.Open(recordPath)
	if errors.Is(err, fs.ErrNotExist) {
		return &record{Version: recordVersion, Files: map[string]string{}}, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return parseRecord(b)
}

func parseRecord(b []byte) (*record, error) {
	r := new(record)
	err := json.Unmarshal(b, r)
	if err == nil && (r.Version != recordVersion || r.Files == nil || len(b) > maxRecord) {
		err = fmt.Errorf("version %d, %d bytes", r.Version, len(b))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", recordPath, err)
	}
	for _, p := range append(slices.Clone(r.Dirs), slices.Collect(maps.Keys(r.Files))...) {
		if !fs.ValidPath(p) || p == "." {
			return nil, fmt.Errorf("%s: path %q", recordPath, p)
		}
	}
	return r, nil
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// mayWrite reports, by a nil error, that nothing is at a path, or what was put there.
func (r *record) mayWrite(root *os.Root, p string) error {
	if _, own := r.Files[p]; own {
		return nil
	}
	_, err := root.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("/%s is there, and was not put there by this: move it away first", p)
	}
	return err
}

// put writes a file, whole, unless it is as it should be. What it is going to write, and the
// folders it is going to make, are noted before, so that they are taken away though this is killed.
func (r *record) put(root *os.Root, f file) error {
	was, now, there := r.Files[f.path], sum(f.data), ""
	if b, err := root.ReadFile(f.path); err == nil {
		there = sum(b)
	}
	if was == now && there == now {
		return setMode(root, f)
	}
	if there != "" && (there == was || there == r.Before[f.path]) { // of one that was killed, too
		if r.Before == nil {
			r.Before = make(map[string]string)
		}
		r.Before[f.path] = there
	}
	r.noteDirs(root, path.Dir(f.path))
	r.Files[f.path], r.Changed = now, true
	if err := r.write(root); err != nil {
		return err
	}
	if err := root.MkdirAll(path.Dir(f.path), 0o755); err != nil {
		return err
	}
	return writeWhole(root, f)
}

// changedThere reports whether a file of ours is not as it was written.
func (r *record) changedThere(root *os.Root, f file) bool {
	b, err := root.ReadFile(f.path)
	there := sum(b)
	return err == nil && r.Files[f.path] != "" && there != r.Files[f.path] && there != r.Before[f.path] && there != sum(f.data)
}

// setMode gives a file its mode: an earlier version may have given it another.
func setMode(root *os.Root, f file) error {
	info, err := root.Lstat(f.path)
	if err != nil || info.Mode().Perm() == f.mode {
		return err
	}
	return root.Chmod(f.path, f.mode)
}

func (r *record) write(root *os.Root) error {
	if err := root.MkdirAll(path.Dir(recordPath), 0o700); err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return writeWhole(root, file{path: recordPath, mode: 0o600, data: b})
}

// noteDirs notes which folders up to dir are not there yet.
func (r *record) noteDirs(root *os.Root, dir string) {
	for d := dir; d != "."; d = path.Dir(d) {
		if _, err := root.Lstat(d); errors.Is(err, fs.ErrNotExist) && !slices.Contains(r.Dirs, d) {
			r.Dirs = append(r.Dirs, d)
		}
	}
}

// newSuffix ends the name of a file that is not whole yet.
const newSuffix = ".rivulet-new"

func writeWhole(root *os.Root, f file) error {
	temporary := f.path + newSuffix
	if err := root.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) { // it may have another mode
		return err
	}
	out, err := root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.mode)
	if err != nil {
		return err
	}
	_, err = out.Write(f.data)
	err = errors.Join(err, out.Chmod(f.mode), out.Sync(), out.Close())
	if err == nil {
		err = root.Rename(temporary, f.path)
	}
	if err != nil {
		return errors.Join(err, root.Remove(temporary))
	}
	return nil
}
