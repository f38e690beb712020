//go:build unix

package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/rivuletfs/rivulet/vm/guest"
)

// forwardSignals passes on the signals that are meant for a process that runs
// elsewhere, until ctx ends: those that end this program do so through ctx.
func forwardSignals(ctx context.Context) <-chan syscall.Signal {
	in, out := make(chan os.Signal, 8), make(chan syscall.Signal)
	signal.Notify(in, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		defer signal.Stop(in)
		for {
			select {
			case s := <-in:
				select {
				case out <- s.(syscall.Signal):
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// terminalSizes returns a terminal's size, and those that it gets until ctx ends.
func terminalSizes(ctx context.Context, fd int) (guest.Terminal, <-chan guest.Terminal) {
	size := func() guest.Terminal {
		cols, rows, err := term.GetSize(fd)
		if err != nil {
			return guest.Terminal{Rows: 24, Cols: 80}
		}
		return guest.Terminal{Rows: uint16(rows), Cols: uint16(cols)} //nolint:gosec // characters on a screen
	}
	in, out := make(chan os.Signal, 1), make(chan guest.Terminal)
	signal.Notify(in, syscall.SIGWINCH)
	go func() {
		defer signal.Stop(in)
		for {
			select {
			case <-in:
				select {
				case out <- size():
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return size(), out
}
