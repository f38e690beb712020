package nbd

import (
	"context"
	"fmt"
	"math/bits"
	"sort"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
)

// An Export is a device under a name.
type Export struct {
	// Name is what clients ask for: UTF-8 without NUL, at most 4096 bytes. It
	// may be empty.
	Name string
	// Description is shown to people, under the same rules.
	Description string
	// Device must stay open until RemoveExport, or the server's end. Clients may
	// write to it if it is a blockdev.Writer.
	Device blockdev.Device
	// PreferredBlock is the smallest size of requests, in bytes, that the device
	// serves well: a power of two from 512 to 32 MiB. 0 is 4096.
	PreferredBlock int
}

// An export is an Export on a server.
type export struct {
	Export
	size    int64
	extents bool            // the device knows its holes
	writer  blockdev.Writer // the device, if it can be written

	// Under the server's mutex.
	users   int
	removed bool
	unused  chan struct{} // closes when removed and without users
}

func (e *export) info() wire.ExportInfo {
	// A Writer's Flush is for all that was written, by whomever: so several
	// connections can share an export.
	flags := wire.FlagHasFlags | wire.FlagSendFlush | wire.FlagSendFUA | wire.FlagCanMultiConn | wire.FlagSendCache
	if e.writer != nil {
		flags |= wire.FlagSendTrim | wire.FlagSendZeroes
	} else {
		flags |= wire.FlagReadOnly
	}
	return wire.ExportInfo{Size: uint64(e.size), Flags: flags}
}

// leave needs the server's mutex.
func (e *export) leave() {
	if e.users--; e.users == 0 && e.removed {
		close(e.unused)
	}
}

// AddExport offers e from now on.
func (s *Server) AddExport(e Export) error {
	if e.PreferredBlock == 0 {
		e.PreferredBlock = 4096
	}
	if err := wire.CheckName(e.Name); err != nil {
		return fmt.Errorf("add export: %w", err)
	}
	if err := wire.CheckName(e.Description); err != nil {
		return fmt.Errorf("add export %q: description: %w", e.Name, err)
	}
	if b := e.PreferredBlock; b < blockdev.SectorSize || b > wire.MaxBlock || bits.OnesCount(uint(b)) != 1 {
		return fmt.Errorf("add export %q: preferred block of %d bytes is no power of two from 512 to 32 MiB", e.Name, b)
	}
	size := e.Device.Size()
	if size < 0 {
		return fmt.Errorf("add export %q: device has %d bytes", e.Name, size)
	}
	_, extents := e.Device.(blockdev.Extenter)
	writer, _ := e.Device.(blockdev.Writer)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exports[e.Name] != nil {
		return fmt.Errorf("add export %q: %w", e.Name, ErrExportExists)
	}
	if s.exports == nil {
		s.exports = map[string]*export{}
	}
	s.exports[e.Name] = &export{Export: e, size: size, extents: extents, writer: writer, unused: make(chan struct{})}
	return nil
}

// RemoveExport offers the export no longer, ends its connections, and waits
// until nothing reads from its device, or ctx is done. Once it has returned nil
// the device may be closed.
func (s *Server) RemoveExport(ctx context.Context, name string) error {
	s.mu.Lock()
	e := s.exports[name]
	if e == nil {
		s.mu.Unlock()
		return fmt.Errorf("remove export %q: %w", name, ErrUnknownExport)
	}
	delete(s.exports, name)
	e.removed = true
	if e.users == 0 {
		close(e.unused)
	}
	for se := range s.conns {
		if se.export == e {
			se.shutDown()
		}
	}
	s.mu.Unlock()
	select {
	case <-e.unused:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("remove export %q: %w", name, ctx.Err())
	}
}

// Users returns how many clients have chosen the export called name.
func (s *Server) Users(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.exports[name]; e != nil {
		return e.users
	}
	return 0
}

// find returns the export that a client gets who asks for name, or nil.
func (s *Server) find(name string) *export {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.findLocked(name)
}

func (s *Server) findLocked(name string) *export {
	if e := s.exports[name]; e != nil || name != "" {
		return e
	}
	if e := s.exports[s.DefaultExport]; e != nil {
		return e
	}
	if len(s.exports) == 1 && s.DefaultExport == "" {
		for _, e := range s.exports {
			return e
		}
	}
	return nil
}

// list returns all exports by name.
func (s *Server) list() []*export {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*export, 0, len(s.exports))
	for _, e := range s.exports {
		all = append(all, e)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}
