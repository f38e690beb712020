package wire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// A Message is one that was received.
type Message struct {
	Header
	Payload []byte // good until the next message is read
	fd      int    // -1: none
}

// File returns the descriptor that came with the message as a file, which is
// the caller's to close; nil if there is none, or it was taken before.
func (m *Message) File() *os.File {
	if m.fd < 0 {
		return nil
	}
	f := os.NewFile(uintptr(m.fd), "cached chunk")
	m.fd = -1
	return f
}

// Close closes the descriptor that came with the message, unless it was taken.
func (m *Message) Close() {
	if m.fd >= 0 {
		closeFile(m.fd)
		m.fd = -1
	}
}

// closeFile is replaced by tests that count.
var closeFile = func(fd int) { _ = syscall.Close(fd) }

// A decoder makes messages of what arrives: bytes in portions of any size, and
// descriptors, each with or before the last byte of its message.
type decoder struct {
	answers bool   // what is read are answers
	buf     []byte // buf[at:end] has arrived
	at, end int
	files   []int // that have arrived and belong to no message yet
}

const firstBuffer = 4 << 10

// space returns where to put what arrives next: at least one byte.
func (d *decoder) space() []byte {
	if d.at == d.end {
		d.at, d.end = 0, 0
	}
	if d.end == len(d.buf) {
		if d.at > 0 {
			d.end = copy(d.buf, d.buf[d.at:d.end])
			d.at = 0
		} else {
			d.buf = append(d.buf, make([]byte, max(firstBuffer, len(d.buf)))...)
		}
	}
	return d.buf[d.end:]
}

// arrived says that n bytes were put into space, and with them files. The
// decoder owns those.
func (d *decoder) arrived(n int, files []int) error {
	d.end += n
	d.files = append(d.files, files...)
	if !d.answers && len(d.files) > 0 {
		return malformed("%d descriptors, and no request has one", len(d.files))
	}
	if len(d.files) > MaxFiles {
		return malformed("%d descriptors that belong to no message", len(d.files))
	}
	return nil
}

// next returns the next message if it is all there. The buffer holds at most
// one message and what came with its end, since next is called until it has
// none before more is read.
func (d *decoder) next() (m Message, ok bool, err error) {
	b := d.buf[d.at:d.end]
	if len(b) < HeaderLen {
		return m, false, nil
	}
	m.fd = -1
	if m.Header, err = parseHeader(b, d.answers); err != nil {
		return m, false, err
	}
	whole := HeaderLen + int(m.Len)
	if len(b) < whole {
		return m, false, nil
	}
	if m.Files > 0 {
		if len(d.files) == 0 {
			return m, false, malformed("%v without its descriptor", m.Type)
		}
		m.fd = d.files[0]
		d.files = d.files[1:]
	}
	m.Payload = b[HeaderLen:whole]
	d.at += whole
	return m, true, nil
}

// close closes the descriptors that no message took.
func (d *decoder) close() {
	for _, fd := range d.files {
		closeFile(fd)
	}
	d.files = nil
}

// A Conn is one end of a connection. One goroutine reads; any number write.
type Conn struct {
	socket  *net.UnixConn
	decoder decoder
	oob     [64]byte // room for MaxFiles descriptors

	patience time.Duration // that a write waits for the peer to read

	mu  sync.Mutex // guards writing
	out []byte
}

// NewConn returns the end of a connection that reads answers, or requests. It
// owns socket. patience is how long a peer that does not read may hold up a
// writer.
func NewConn(socket *net.UnixConn, answers bool, patience time.Duration) *Conn {
	return &Conn{socket: socket, decoder: decoder{answers: answers}, patience: patience}
}

// EndReading closes the descriptors that have arrived and that no message took.
// Whoever reads calls it when it reads no more, whatever the reason.
func (c *Conn) EndReading() { c.decoder.close() }

// Close closes the socket. Reading ends.
func (c *Conn) Close() error { return c.socket.Close() }

// Socket returns the connection's socket, for deadlines and credentials.
func (c *Conn) Socket() *net.UnixConn { return c.socket }

// Read returns the next message, which the caller closes. An error other than
// of a deadline of the socket ends the connection: descriptors that have arrived
// are closed. io.EOF says that the peer has closed it between two messages.
func (c *Conn) Read() (Message, error) {
	for {
		m, ok, err := c.decoder.next()
		if ok {
			return m, nil
		}
		if err == nil {
			err = c.receive()
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			c.decoder.close()
		}
		return Message{fd: -1}, err
	}
}

// receive reads once.
func (c *Conn) receive() error {
	n, oobn, flags, _, err := c.socket.ReadMsgUnix(c.decoder.space(), c.oob[:])
	files, bad := rights(c.oob[:oobn])
	tooMany := c.decoder.arrived(max(n, 0), files) // which owns them in any case
	if flags&syscall.MSG_CTRUNC != 0 {
		return fmt.Errorf("%w: %w", ErrMalformed, ErrTruncated)
	}
	if err := errors.Join(bad, tooMany); err != nil {
		return err
	}
	ended := errors.Is(err, io.EOF) || err == nil && n == 0
	switch {
	case ended && c.decoder.at == c.decoder.end:
		return io.EOF
	case ended:
		return io.ErrUnexpectedEOF
	case err != nil:
		return err
	}
	return nil
}

// rights returns the descriptors in control messages.
func rights(oob []byte) (files []int, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	list, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, malformed("control message: %v", err)
	}
	for i := range list {
		got, badKind := syscall.ParseUnixRights(&list[i])
		files = append(files, got...)
		if badKind != nil {
			err = malformed("control message: %v", badKind)
		}
	}
	return files, err
}

// Write sends a message: what payload appends, and file unless it is nil. It
// may be called by several goroutines at once. file stays the caller's. After an
// error the connection is of no more use.
func (c *Conn) Write(t Type, request uint64, payload func(b []byte) []byte, file *os.File) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := Header{Type: t, Request: request}
	var oob []byte
	if file != nil {
		h.Files = 1
		oob = syscall.UnixRights(int(file.Fd()))
	}
	b := h.Append(c.out[:0])
	if payload != nil {
		b = payload(b)
	}
	c.out = b[:0]
	n := len(b) - HeaderLen
	if n > kinds[t].most {
		return fmt.Errorf("send %v: %w", t, malformed("%d bytes, at most %d are allowed", n, kinds[t].most))
	}
	le.PutUint32(b, uint32(n))
	if err := c.send(b, oob); err != nil {
		return fmt.Errorf("send %v: %w", t, err)
	}
	return nil
}

// send sends all of b, and oob with its first byte.
func (c *Conn) send(b, oob []byte) error {
	end := time.Now().Add(c.patience)
	if err := c.socket.SetWriteDeadline(end); err != nil {
		return err
	}
	for {
		n, _, err := c.socket.WriteMsgUnix(b, oob, nil)
		if errors.Is(err, syscall.ETOOMANYREFS) && time.Now().Before(end) {
			time.Sleep(time.Millisecond) // so many descriptors are on their way that the kernel takes no more
			continue
		}
		if err != nil {
			return err
		}
		if n == len(b) {
			return nil
		}
		if n == 0 {
			return io.ErrShortWrite
		}
		b, oob = b[n:], nil
	}
}
