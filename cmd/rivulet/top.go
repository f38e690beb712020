package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/rivuletfs/rivulet/host/control"
)

// What a terminal is told.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // the other screen, without a cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	topLeft     = "\x1b[H"
	eraseLine   = "\x1b[K"
	eraseBelow  = "\x1b[J"
)

// styles are what a line begins with, by its style.
var styles = [...]string{plainStyle: "", headStyle: "\x1b[7m", badStyle: "\x1b[31m"}

const (
	minInterval = 100 * time.Millisecond
	endStyle    = "\x1b[0m"
	keyTime     = 100 * time.Millisecond // between looks for the end while no key comes
)

func (a *app) topCommand() *cobra.Command {
	var once bool
	var interval time.Duration
	var sort string
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch what this host's disks read, and from where",
		Long: `Top shows the disks of the agent and the host cache, and how fast their counters
rise: from one look to the next, hit ratios too. Attachments that share a disk have
its hit ratios.

Keys: q quits; r b m o s w n sort by reads, bytes, misses, reads of the origin, slow
reads, longest wait, name. Where the output is no terminal, or with --once, it
prints one frame, of two looks, and ends.`,
		Example: `  rivulet top
  rivulet top --once --sort slow`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			order, err := topOrderOf(sort)
			if err != nil {
				return err
			}
			if interval < minInterval {
				return usagef("--interval %v: want %v or more", interval, minInterval)
			}
			m := &topModel{order: order}
			if once || !isTerminal(a.out) {
				return a.topOnce(cmd.Context(), m, interval)
			}
			return a.topLive(cmd.Context(), m, interval)
		},
	}
	a.observeFlags(cmd)
	f := cmd.Flags()
	f.BoolVar(&once, "once", false, "print one frame and end")
	f.DurationVar(&interval, "interval", 2*time.Second, "time from one look to the next")
	f.StringVar(&sort, "sort", topOrders[0].name, "what to sort by: reads, bytes, misses, origin, slow, waiting, name")
	var names []cobra.Completion
	for _, o := range topOrders {
		names = append(names, o.name)
	}
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// topOnce prints one frame.
func (a *app) topOnce(ctx context.Context, m *topModel, interval time.Duration) error {
	m.before = a.observe(ctx)
	if m.before.failed != nil && m.before.cache == nil {
		if errors.Is(m.before.failed, control.ErrNoAgent) {
			return exitError{errors.New(m.before.noAgentAdvice()), exitNoAgent}
		}
		return m.before.failed
	}
	select {
	case <-time.After(interval):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	m.now = a.observe(ctx)
	for _, l := range m.render() {
		a.printf("%s\n", l.text)
	}
	return ctx.Err()
}

// topLive draws on the terminal until somebody quits. It has two goroutines beside
// its own, which end before it does: one asks, since answers may take long, and one
// reads keys.
func (a *app) topLive(ctx context.Context, m *topModel, interval time.Duration) (err error) {
	ctx, end := context.WithCancel(ctx)
	keys := make(chan byte)
	restore, typed, err := readKeys(ctx, os.Stdin, keys)
	if err != nil {
		end()
		return err
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	observed := make(chan *observation)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		a.observeEvery(ctx, interval, observed)
	}()
	fmt.Fprint(a.out, enterScreen)
	defer func() {
		end()
		<-asked
		<-typed
		signal.Stop(resized)
		fmt.Fprint(a.out, leaveScreen)
		err = errors.Join(err, restore())
	}()
	for {
		select {
		case o := <-observed:
			m.before, m.now = m.now, o
		case k := <-keys:
			if k == 'q' || k == 3 { // ^C
				return nil
			}
			for _, o := range topOrders {
				if o.key == k {
					m.order = o
				}
			}
		case <-resized:
		case <-ctx.Done():
			return nil // interrupted, as it is meant to end
		}
		if m.now != nil {
			m.width, m.height = screenSize(a.out)
			if _, err := io.WriteString(a.out, draw(m.render())); err != nil {
				return err
			}
		}
	}
}

// observeEvery sends an observation each interval, or as soon as it has it, until ctx
// ends.
func (a *app) observeEvery(ctx context.Context, interval time.Duration, to chan<- *observation) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case to <- a.observe(ctx):
		case <-ctx.Done():
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// draw is what a terminal is sent for a frame.
func draw(lines []topLine) string {
	var b strings.Builder
	b.WriteString(topLeft)
	for i, l := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(styles[l.style])
		b.WriteString(l.text)
		if l.style != plainStyle {
			b.WriteString(endStyle)
		}
		b.WriteString(eraseLine)
	}
	b.WriteString(eraseBelow)
	return b.String()
}

// screenSize returns the columns and lines of a terminal; where it does not tell, 80
// and 24.
func screenSize(w io.Writer) (width, height int) {
	if f, ok := w.(*os.File); ok {
		if width, height, err := term.GetSize(int(f.Fd())); err == nil && width > 0 && height > 1 {
			return width, height
		}
	}
	return 80, 24
}

// readKeys sends what is typed until ctx ends; done is closed then. restore gives the
// terminal back its mode. Where in is no terminal, nothing is typed.
func readKeys(ctx context.Context, in *os.File, keys chan<- byte) (restore func() error, done <-chan struct{}, err error) {
	ended := make(chan struct{})
	fd := int(in.Fd())
	if !term.IsTerminal(fd) {
		close(ended)
		return func() error { return nil }, ended, nil
	}
	mode, err := term.MakeRaw(fd)
	if err != nil {
		return nil, nil, fmt.Errorf("terminal: %w", err)
	}
	go func() {
		defer close(ended)
		b := make([]byte, 1)
		for ctx.Err() == nil {
			ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(ready, int(keyTime.Milliseconds()))
			if errors.Is(err, unix.EINTR) || err == nil && n == 0 {
				continue
			}
			if err == nil {
				n, err = unix.Read(fd, b)
			}
			if err != nil || n == 0 {
				return // nobody types any more
			}
			select {
			case keys <- b[0]:
			case <-ctx.Done():
			}
		}
	}()
	return func() error { return term.Restore(fd, mode) }, ended, nil
}
