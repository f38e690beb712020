package keep

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/internal/fdpass"
)

// maxHeld bounds what a holder keeps.
const maxHeld = 16384

// A holdRequest is what an agent sends to its holder; Keep comes with the
// descriptor. Every one is answered by a holdReply, Take by one for each
// descriptor before that.
type holdRequest struct {
	Keep   string `json:"keep,omitempty"`
	Forget string `json:"forget,omitempty"`
	Take   bool   `json:"take,omitempty"`
}

type holdReply struct {
	Name  string `json:"name,omitempty"` // of the descriptor that comes with it
	Error string `json:"error,omitempty"`
}

// Hold is the life of a holder: it keeps descriptors for the agents that connect
// to ln, which it closes. It ends when ctx does; when no agent is connected and it
// keeps nothing; and when none has been for patience, since whoever reads from
// what is kept hangs until then, and should get an error rather than hang for
// ever. All it kept is closed then.
//
// It does not start agents. That is for whoever starts the first one and knows
// with which arguments: systemd, a container's runtime, a person.
func Hold(ctx context.Context, ln *net.UnixListener, patience time.Duration) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	h := &holder{held: make(map[string]*fdpass.File), patience: patience, end: end}
	h.timer = time.AfterFunc(patience, end) // nobody has come yet
	defer h.timer.Stop()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	defer func() { _ = ln.Close() }()
	defer h.closeAll()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := ln.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			end() // so that connections end too
			return err
		}
		wg.Go(func() {
			defer func() { _ = c.Close() }()
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			defer stop()
			if fdpass.CheckPeer(c) == nil {
				h.serve(&fdpass.Conn{UnixConn: c})
			}
		})
	}
}

// HoldInherited is Hold for a process whose descriptor 3 is the listener.
func HoldInherited(ctx context.Context, patience time.Duration) error {
	file := os.NewFile(3, "listener")
	ln, err := net.FileListener(file)
	_ = file.Close()
	if err != nil {
		return fmt.Errorf("hold descriptors: %w", err)
	}
	u, ok := ln.(*net.UnixListener)
	if !ok {
		return errors.New("hold descriptors: not started by an agent")
	}
	u.SetUnlinkOnClose(true)
	debug.FreeOSMemory()
	return Hold(ctx, u, patience)
}

type holder struct {
	patience time.Duration
	end      context.CancelFunc
	timer    *time.Timer // runs while no agent is connected

	mu     sync.Mutex // guards what follows
	held   map[string]*fdpass.File
	agents int
}

// serve answers one agent until it goes.
func (h *holder) serve(c *fdpass.Conn) {
	h.mu.Lock()
	h.agents++
	h.timer.Stop()
	h.mu.Unlock()
	defer h.left()
	for {
		var r holdRequest
		files, err := c.Receive(&r)
		if err != nil {
			return
		}
		err = h.answer(c, r, files)
		fdpass.CloseAll(files)
		reply := holdReply{}
		if err != nil {
			reply.Error = err.Error()
		}
		if c.Send(reply) != nil {
			return
		}
	}
}

func (h *holder) left() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.agents--
	switch {
	case h.agents > 0:
	case len(h.held) == 0:
		h.end()
	default:
		h.timer.Reset(h.patience)
	}
}

func (h *holder) answer(c *fdpass.Conn, r holdRequest, files []*fdpass.File) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case r.Take:
		for name, f := range h.held {
			if err := c.Send(holdReply{Name: name}, f); err != nil {
				return err
			}
		}
		return nil
	case r.Forget != "":
		h.replace(r.Forget, nil)
		return nil
	case len(files) != 1 || checkName(r.Keep) != nil:
		return errors.New("no such request")
	case len(h.held) >= maxHeld && h.held[r.Keep] == nil:
		return errors.New("too many descriptors are held already")
	}
	f, err := files[0].Duplicate()
	if err == nil {
		h.replace(r.Keep, f)
	}
	return err
}

// replace needs h.mu.
func (h *holder) replace(name string, f *fdpass.File) {
	if old := h.held[name]; old != nil {
		_ = old.Close()
		delete(h.held, name)
	}
	if f != nil {
		h.held[name] = f
	}
}

func (h *holder) closeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name := range h.held {
		h.replace(name, nil)
	}
}
