// Command vhostdisk serves a file over vhost-user-blk, as a disk that can be
// written, until it is killed.
//
//	vhostdisk -file FILE -socket PATH [-serial TEXT] [-delay TIME]
//
// Each read and write takes up to twice the delay, before and after the work, so that
// a kill meets some of them.
// It prints "ready" when a front end can connect, and a line in its log for each
// that does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/frontend/vhostuser"
)

func main() {
	file := flag.String("file", "", "the disk's bytes")
	socket := flag.String("socket", "", "where to listen; one that is there is replaced")
	serial := flag.String("serial", "", "serial number")
	delay := flag.Duration("delay", 0, "how long reads and writes take")
	flag.Parse()
	if err := serve(*file, *socket, *serial, *delay); err != nil {
		fmt.Fprintln(os.Stderr, "vhostdisk:", err)
		os.Exit(1)
	}
}

func serve(file, socket, serial string, delay time.Duration) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	s := &vhostuser.Server{
		Export: vhostuser.Export{Device: disk{blockdevtest.NewFile(f, st.Size()), f, delay}, Serial: serial},
		Log:    slog.New(slog.NewTextHandler(os.Stdout, nil)),
	}
	return s.Serve(context.Background(), ln)
}

// A disk gives back the file's space that is discarded.
type disk struct {
	*blockdevtest.File
	f     *os.File
	delay time.Duration
}

func (d disk) pause() { time.Sleep(rand.N(d.delay + 1)) }

func (d disk) ReadAt(p []byte, off int64) (int, error) {
	d.pause()
	defer d.pause()
	return d.File.ReadAt(p, off)
}

func (d disk) WriteAt(p []byte, off int64) (int, error) {
	d.pause()
	defer d.pause()
	return d.File.WriteAt(p, off)
}

func (d disk) Discard(off, length int64) error {
	if err := blockdev.CheckRange(off, length, d.Size()); err != nil {
		return fmt.Errorf("discard: %w", err)
	}
	return unix.Fallocate(int(d.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}
