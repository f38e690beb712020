package node

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// ErrInUse says that disks are in use, and that no file was taken away. Disks that nobody used are
// down, with what their containers had written to them.
var ErrInUse = errors.New("disks are in use: end their containers and machines first")

// Remove stops the services and takes away all that Install has put onto the machine, and what the
// services have left there: caches, state, and the snapshots of containers. While
// a disk is in use the error is ErrInUse. A file that was changed since is left, with a line in
// the log.
func (n *Node) Remove(ctx context.Context) error {
	root, err := os.OpenRoot(n.Root)
	if err != nil {
		return fmt.Errorf("remove from the node: %w", err)
	}
	defer func() { _ = root.Close() }()
	r, err := readRecord(root)
	if err != nil {
		return fmt.Errorf("remove from the node: %w", err)
	}
	if len(r.Files) == 0 {
		n.Log.Info("nothing is installed")
		return nil
	}
	if err := n.stop(ctx, root); err != nil {
		return fmt.Errorf("remove from the node: %w", err)
	}
	for p, want := range r.Files {
		_ = root.Remove(p + newSuffix) // of one that was killed
		b, err := root.ReadFile(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return fmt.Errorf("remove from the node: %w", err)
		case sum(b) != want && sum(b) != r.Before[p]:
			n.Log.Warn("a file was changed since it was installed, and is left", "path", "/"+p)
		default:
			if err := root.Remove(p); err != nil {
				return fmt.Errorf("remove from the node: %w", err)
			}
		}
	}
	// The innermost first; what somebody else uses by now stays.
	slices.SortFunc(r.Dirs, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	for _, d := range r.Dirs {
		_ = root.Remove(d)
	}
	err = n.Run(ctx, systemctl, "daemon-reload")
	if err == nil {
		err = removeOwn(root)
	}
	if err != nil {
		return fmt.Errorf("remove from the node: %w", err)
	}
	return nil
}

// removeOwn removes ownDirs, and the record when nothing else is left, so that who is killed
// meanwhile can go on.
func removeOwn(root *os.Root) error {
	for _, d := range ownDirs {
		f, err := root.Open(d)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		names, err := f.Readdirnames(-1)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		for _, name := range names {
			if p := path.Join(d, name); p != recordPath {
				if err := root.RemoveAll(p); err != nil {
					return err
				}
			}
		}
	}
	for _, d := range ownDirs {
		if err := root.RemoveAll(d); err != nil {
			return err
		}
	}
	return nil
}

// stop ends the services, once no disk is in use.
func (n *Node) stop(ctx context.Context, root *os.Root) error {
	active := n.Run(ctx, systemctl, "is-active", "--quiet", units[1]) == nil
	if active {
		if err := n.Run(ctx, path.Join("/", programsDir, "rivulet"), "agent", "--agent", "/run/rivulet/agent.sock", "detach", "--all"); err != nil {
			return fmt.Errorf("%w (%w)", ErrInUse, err)
		}
	}
	stopped := slices.DeleteFunc(slices.Clone(units), func(unit string) bool { // by one that was killed
		_, err := root.Lstat(path.Join(unitsDir, unit))
		return errors.Is(err, fs.ErrNotExist)
	})
	slices.Reverse(stopped)
	if len(stopped) > 0 {
		if err := n.Run(ctx, systemctl, append([]string{"disable", "--now"}, stopped...)...); err != nil {
			return fmt.Errorf("systemctl disable: %w", err)
		}
	}
	mounted, err := mountedBelow(root, ownDirs)
	if err == nil && len(mounted) > 0 {
		err = fmt.Errorf("%w (mounted: %s)", ErrInUse, strings.Join(mounted, ", "))
	}
	return err
}

// mountedBelow returns what is mounted on the machine below dirs: it must not be removed, and so nothing is
// where that cannot be known.
func mountedBelow(root *os.Root, dirs []string) (list []string, err error) {
	b, err := root.ReadFile(mountsFile)
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		for _, d := range dirs {
			if strings.HasPrefix(fields[4], "/"+d+"/") {
				list = append(list, fields[4])
			}
		}
	}
	return list, lines.Err()
}
