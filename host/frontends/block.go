package frontends

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/fuse"
	"github.com/rivuletfs/rivulet/frontend/loopmount"
	"github.com/rivuletfs/rivulet/host"
)

// Block shows a disk as a loop device, which others mount or give to a virtual machine
// (host.Frontend). It can be written if the disk can. It needs root.
type Block struct {
	File
	// Runtime is the folder in which the files are shown, one directory each.
	Runtime string
}

var _ host.Frontend = (*Block)(nil)

// Offer implements [host.Frontend]: o.Where is the path of a symbolic link to the device.
func (b *Block) Offer(ctx context.Context, o host.Offer) (host.Offered, error) {
	if !filepath.IsAbs(o.Where) {
		return nil, host.SpecErrorf("attach: link %q to a device is not absolute", o.Where)
	}
	f := &offeredBlock{Block: b, id: o.ID, link: o.Where, hidden: filepath.Join(b.Runtime, HiddenPrefix+o.ID)}
	if err := os.Mkdir(f.hidden, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("offer a device at %s: %w", o.Where, err)
	}
	o.Name = diskFile
	if err := b.begin(ctx, &o, f); err != nil {
		_ = os.Remove(f.hidden)
		return nil, fmt.Errorf("offer a device at %s: %w", o.Where, err)
	}
	return f, nil
}

// begin shows the file, has a device read it, and a link lead there; or goes on with those of the
// process before.
func (b *Block) begin(ctx context.Context, o *host.Offer, f *offeredBlock) (err error) {
	var st fileState
	if o.State != nil {
		if err := json.Unmarshal(o.State, &st); err != nil {
			return err
		}
	}
	show := fuse.Disk{Name: diskFile, ID: o.Disk, Device: o.Device}
	if f.session, err = b.resume(*o, show); err != nil {
		return err
	}
	if f.session != nil && f.reads(st.Device) {
		f.device = st.Device
	} else if err := b.beginAnew(ctx, o, f, show, st.Device); err != nil {
		return err
	}
	b.remember(o.ID, f.session)
	if err := linkTo(f.device, f.link); err != nil {
		return errors.Join(err, f.Detach(ctx, true))
	}
	return nil
}

// beginAnew makes what cannot be gone on with. A device of before whose file is gone, gives I/O errors; it
// goes with whoever still has it.
func (b *Block) beginAnew(ctx context.Context, o *host.Offer, f *offeredBlock, show fuse.Disk, before string) (err error) {
	if f.reads(before) {
		_ = loopmount.Abandon(before)
	}
	if f.session == nil {
		clearDead(f.hidden)
		if f.session, err = b.mount(*o, show, f.hidden); err != nil {
			return err
		}
	}
	_, writable := o.Device.(blockdev.Writer)
	l, err := loopmount.Attach(ctx, f.file(), loopmount.Options{BlockSize: blockSize, ReadAhead: readAhead, Writable: writable})
	if err == nil {
		f.device = l.Device
		err = errors.Join(f.keepDevice(o, l), l.Close())
	}
	if err != nil {
		return errors.Join(err, f.session.Close(), b.over(o.ID))
	}
	return nil
}

// keepDevice has the next process find the device, and then the device stay for it.
func (o *offeredBlock) keepDevice(offer *host.Offer, l *loopmount.Loop) error {
	state, err := json.Marshal(fileState{Session: o.session.State(), Device: l.Device})
	if err == nil {
		err = offer.Save(state)
	}
	if err == nil {
		err = l.Stay()
	}
	return err
}

// linkTo makes a symbolic link, in place of one that is there.
func linkTo(device, link string) error {
	if info, err := os.Lstat(link); err == nil && info.Mode().Type() != fs.ModeSymlink {
		return fmt.Errorf("%s is there, and no link", link)
	}
	next := link + ".new"
	_ = os.Remove(next)
	if err := os.Symlink(device, next); err != nil {
		return err
	}
	return os.Rename(next, link)
}

// An offeredBlock is a device, its file, and that file's session.
type offeredBlock struct {
	*Block
	id, link, hidden, device string
	session                  *fuse.Session
}

var _ host.Offered = (*offeredBlock)(nil)

func (o *offeredBlock) file() string { return filepath.Join(o.hidden, diskFile) }

// reads reports whether a device reads this disk.
func (o *offeredBlock) reads(device string) bool {
	if device == "" {
		return false
	}
	file, err := loopmount.BackingFile(device)
	return err == nil && file == o.file()
}

// Address implements [host.Offered].
func (o *offeredBlock) Address() string { return o.device }

// Done implements [host.Offered].
func (o *offeredBlock) Done() <-chan struct{} { return o.session.Done() }

// Err implements [host.Offered].
func (o *offeredBlock) Err() error { return errors.Join(o.session.Wait(), o.over(o.id)) }

// Detach implements [host.Offered]. A device is in use while it is mounted, in whatever mount
// namespace, or open.
func (o *offeredBlock) Detach(ctx context.Context, force bool) error {
	for o.reads(o.device) {
		if err := loopmount.Clear(o.device); err != nil && !errors.Is(err, loopmount.ErrBusy) {
			return err
		}
		if !o.reads(o.device) {
			break
		}
		if pause(ctx) == nil {
			continue
		}
		if !force {
			return fmt.Errorf("%s: %w", o.device, host.ErrBusy)
		}
		break
	}
	// With force, what still has the device gets I/O errors from here on, and the device goes with it.
	if o.reads(o.device) {
		if err := loopmount.Abandon(o.device); err != nil {
			return err
		}
	}
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseWait)
	defer cancel()
	if err := unmount(wait, o.session, true); err != nil {
		return err
	}
	if to, err := os.Readlink(o.link); err == nil && to == o.device {
		_ = os.Remove(o.link)
	}
	return errors.Join(o.over(o.id), os.Remove(o.hidden))
}
