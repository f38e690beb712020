package keep

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/rivuletfs/rivulet/internal/fdpass"
)

// answerWait bounds the wait for a holder's answer.
const answerWait = 10 * time.Second

// A Holder is the keeper of a process that runs Hold. It is started when there is
// something to keep; if it ends, another one is, and gets all again.
type Holder struct {
	path  string
	start func(ln *os.File) error

	mu   sync.Mutex // guards what follows, and the requests: one at a time
	conn *fdpass.Conn
	kept map[string]*fdpass.File // our own, for the next holder
}

var _ Keeper = (*Holder)(nil)

// NewHolder returns the keeper whose process listens on the unix socket path,
// and what that kept of the agent before this one; if no such process runs it
// kept nothing. start starts a process that runs Hold on the listener in ln, and
// that outlives this one; it does not wait for it, and ln stays ours.
func NewHolder(path string, start func(ln *os.File) error) (*Holder, *Inherited, error) {
	h := &Holder{path: path, start: start, kept: make(map[string]*fdpass.File)}
	in := &Inherited{}
	err := h.connect()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return h, in, nil
	}
	if err == nil {
		err = h.take(in)
	}
	if h.conn != nil && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) {
		// It was about to end. What it had given stays.
		_ = h.conn.Close()
		h.conn = nil
		return h, in, nil
	}
	if err != nil {
		in.Close()
		_ = h.Close()
		return nil, nil, fmt.Errorf("holder of descriptors: %w", err)
	}
	return h, in, nil
}

func (h *Holder) connect() error {
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: h.path, Net: "unixpacket"})
	if err != nil {
		return err
	}
	if err := fdpass.CheckPeer(c); err != nil {
		_ = c.Close()
		return err
	}
	h.conn = &fdpass.Conn{UnixConn: c}
	return nil
}

// take asks for everything that is held.
func (h *Holder) take(in *Inherited) error {
	if err := h.send(holdRequest{Take: true}); err != nil {
		return err
	}
	for {
		r, files, err := h.receive()
		if err != nil || r.Name == "" {
			return err
		}
		if len(files) != 1 {
			fdpass.CloseAll(files)
			return fmt.Errorf("%d descriptors came for %s", len(files), r.Name)
		}
		own, err := files[0].Duplicate()
		if err != nil {
			fdpass.CloseAll(files)
			return err
		}
		h.kept[r.Name] = own
		in.Add(Descriptor{Name: r.Name, File: files[0]})
	}
}

func (h *Holder) send(r holdRequest, files ...*fdpass.File) error {
	if err := h.conn.SetDeadline(time.Now().Add(answerWait)); err != nil {
		return err
	}
	return h.conn.Send(r, files...)
}

// A refusal is the holder's own word, and no trouble of the connection.
type refusal struct{ error }

func (h *Holder) receive() (holdReply, []*fdpass.File, error) {
	var r holdReply
	files, err := h.conn.Receive(&r)
	if err == nil && r.Error != "" {
		err = refusal{errors.New(r.Error)}
	}
	return r, files, err
}

func (h *Holder) ask(r holdRequest, files ...*fdpass.File) error {
	if h.conn == nil {
		return io.EOF
	}
	if err := h.send(r, files...); err != nil {
		return err
	}
	_, got, err := h.receive()
	fdpass.CloseAll(got)
	return err
}

// Keep implements [Keeper].
func (h *Holder) Keep(name string, f *fdpass.File) error {
	if err := checkName(name); err != nil {
		return err
	}
	own, err := f.Duplicate()
	if err != nil {
		return fmt.Errorf("keep descriptor %s: %w", name, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.kept[name]; old != nil {
		_ = old.Close()
	}
	h.kept[name] = own
	err = h.ask(holdRequest{Keep: name}, own)
	if err != nil && !errors.As(err, new(refusal)) {
		err = h.restart() // which gives it all
	}
	if err != nil {
		return fmt.Errorf("keep descriptor %s: %w", name, err)
	}
	return nil
}

// Forget implements [Keeper].
func (h *Holder) Forget(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.kept[name]; old != nil {
		_ = old.Close()
		delete(h.kept, name)
	}
	err := h.ask(holdRequest{Forget: name})
	if err != nil && !errors.As(err, new(refusal)) {
		err = nil // a holder that has ended has forgotten it
		if len(h.kept) > 0 {
			err = h.restart()
		}
	}
	if err != nil {
		return fmt.Errorf("forget descriptor %s: %w", name, err)
	}
	return nil
}

// Check makes sure that a holder is there while there is something to keep.
// Whoever owns the Holder calls it now and then.
func (h *Holder) Check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.kept) == 0 || errors.As(h.ask(holdRequest{}), new(refusal)) {
		return nil // it answers that this is no request
	}
	return h.restart()
}

// restart starts a holder in place of one that has ended, and gives it
// everything. It needs h.mu.
func (h *Holder) restart() error {
	if h.conn != nil {
		_ = h.conn.Close()
		h.conn = nil
	}
	if err := os.Remove(h.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: h.path, Net: "unixpacket"})
	if err != nil {
		return err
	}
	ln.SetUnlinkOnClose(false)
	defer func() { _ = ln.Close() }()
	if err := os.Chmod(h.path, 0o600); err != nil {
		return err
	}
	file, err := ln.File()
	if err != nil {
		return err
	}
	err = h.start(file)
	_ = file.Close()
	if err == nil {
		err = h.connect()
	}
	if err != nil {
		return fmt.Errorf("start a holder of descriptors: %w", err)
	}
	for name, f := range h.kept {
		if err := h.ask(holdRequest{Keep: name}, f); err != nil {
			return err
		}
	}
	return nil
}

// Close implements [Keeper].
func (h *Holder) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, f := range h.kept {
		_ = f.Close()
		delete(h.kept, name)
	}
	if h.conn == nil {
		return nil
	}
	err := h.conn.Close()
	h.conn = nil
	return err
}
