// Package transport carries vhost-user messages, with their descriptors, over unix
// sockets. It bounds what the other end can have us read or hold: wire.MaxPayload
// bytes and wire.MaxFiles descriptors a message.
package transport

import (
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/wire"
)

// A Message is one that was received, and is used again for the next.
type Message struct {
	wire.Header
	Payload []byte
	// Files are the descriptors that came with it. Whoever takes one over takes it
	// out of the list; CloseFiles closes the others.
	Files []int

	room [wire.MaxPayload]byte
	oob  [128]byte // for more descriptors than may come
}

// Receive reads a message. The end of the connection between two is io.EOF.
func (m *Message) Receive(nc *net.UnixConn) error {
	m.Files = m.Files[:0]
	var header [wire.HeaderSize]byte
	for n := 0; n < len(header); {
		k, oobn, flags, _, err := nc.ReadMsgUnix(header[n:], m.oob[:])
		if more := m.takeFiles(m.oob[:oobn]); err == nil {
			err = more
		}
		switch {
		case err == nil && flags&unix.MSG_CTRUNC != 0:
			err = errors.New("more descriptors than fit")
		case err == nil && k == 0 && n == 0:
			err = io.EOF
		case (err == nil || err == io.EOF) && k == 0 && n > 0:
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			m.CloseFiles()
			return err
		}
		n += k
	}
	var err error
	if m.Header, err = wire.ParseHeader(header[:]); err == nil {
		m.Payload = m.room[:m.Size]
		if _, err = io.ReadFull(nc, m.Payload); err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil {
		m.CloseFiles()
	}
	return err
}

// takeFiles takes over the descriptors of control messages.
func (m *Message) takeFiles(oob []byte) error {
	if len(oob) == 0 {
		return nil
	}
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("control data: %w", err)
	}
	for i := range list {
		// Those of other kinds bring no descriptors.
		if fds, err := unix.ParseUnixRights(&list[i]); err == nil {
			m.Files = append(m.Files, fds...)
		}
	}
	if len(m.Files) > wire.MaxFiles {
		return fmt.Errorf("%d descriptors with one message, at most %d", len(m.Files), wire.MaxFiles)
	}
	return nil
}

// CloseFiles closes the descriptors that nobody has taken over.
func (m *Message) CloseFiles() {
	for _, fd := range m.Files {
		_ = unix.Close(fd)
	}
	m.Files = m.Files[:0]
}

// Send sends a message, whose size it fills in, with descriptors, which stay the
// caller's.
func Send(nc *net.UnixConn, h wire.Header, payload []byte, files ...int) error {
	h.Size = uint32(len(payload))
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	_, _, err := nc.WriteMsgUnix(append(h.Append(nil), payload...), rights, nil)
	return err
}
