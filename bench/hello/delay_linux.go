package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Largest packet: with segmentation left to the other end, TCP hands over up to 64 KiB at
// once, behind a header of virtio's that says how to cut it.
const (
	virtioHeader = 10
	maxPacket    = virtioHeader + 64<<10
	// maxQueued packets are under way in one direction; further ones are lost.
	maxQueued = 4096
)

// delayCommand joins two network namespaces by a TUN device in each. What is sent into one
// comes out of the other a while later; bandwidth is tbf's business.
func delayCommand(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("delay", flag.ContinueOnError)
	a, b := f.String("a", "", "one namespace"), f.String("b", "", "the other")
	device := f.String("device", "link0", "name of the device in each")
	oneWay := f.Duration("delay", 0, "how long a packet takes")
	if err := f.Parse(args); err != nil {
		return err
	}
	ends := make([]*os.File, 2)
	for i, ns := range []string{*a, *b} {
		end, err := openTUN(ns, *device)
		if err != nil {
			return fmt.Errorf("device %s in namespace %q: %w", *device, ns, err)
		}
		defer func() { _ = end.Close() }()
		ends[i] = end
	}
	fmt.Println("ready")
	failed := make(chan error, 4)
	for i := range ends {
		queue := make(chan packet, maxQueued)
		go func() { failed <- take(ends[i], queue, *oneWay) }()
		go func() { failed <- give(ends[1-i], queue) }()
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil // the process ends, and the goroutines with it
	}
}

// openTUN makes a TUN device in a namespace. The thread that enters it is never used again:
// it ends with its goroutine, which keeps it locked.
func openTUN(ns, device string) (*os.File, error) {
	type opened struct {
		f   *os.File
		err error
	}
	done := make(chan opened)
	go func() {
		runtime.LockOSThread()
		f, err := openTUNHere(ns, device)
		done <- opened{f, err}
	}()
	o := <-done
	return o.f, o.err
}

func openTUNHere(ns, device string) (*os.File, error) {
	namespace, err := os.Open(namespaceFile(ns))
	if err != nil {
		return nil, err
	}
	defer func() { _ = namespace.Close() }()
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter: %w", err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(device)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err == nil {
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), device), nil
}

// A packet waits until it is due.
type packet struct {
	bytes []byte
	due   time.Time
}

// take reads what is sent into a device. Each packet has memory of its own, of its size.
func take(f *os.File, queue chan<- packet, delay time.Duration) error {
	buffer := make([]byte, maxPacket)
	for {
		n, err := f.Read(buffer)
		if err != nil {
			return fmt.Errorf("read a packet: %w", err)
		}
		select {
		case queue <- packet{append([]byte(nil), buffer[:n]...), time.Now().Add(delay)}:
		default: // as a full router does
		}
	}
}

// give writes packets when they are due. The sleep is the kernel's: Go's timers may be a
// millisecond late, which is a whole round trip here.
func give(f *os.File, queue <-chan packet) error {
	runtime.LockOSThread()
	for p := range queue {
		if wait := time.Until(p.due); wait > 0 {
			t := unix.NsecToTimespec(wait.Nanoseconds())
			_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &t, nil)
		}
		// A device that is down or full loses packets too.
		if _, err := f.Write(p.bytes); err != nil && !errors.Is(err, unix.EIO) && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("write a packet: %w", err)
		}
	}
	return nil
}
