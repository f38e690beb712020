// Package wire speaks the few commands of Redis (RESP2) and of memcached (text
// protocol) that a zone cache needs: read, write and remove a value.
//
// A server may be hostile. So every length is checked before anything is
// allocated, no line is longer than maxLine, no number of answers is taken from
// the server, and what is not expected ends the connection. Time is bounded by
// the deadline of the connection, which the caller sets for each command.
//
// The clients that others wrote are not used here because they allocate what a
// server says before they look at it.
package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
)

// maxLine is the longest line that is read, in bytes.
const maxLine = 1 << 10

// maxQuote is how much of what a server said stands in an error, in bytes.
const maxQuote = 80

var (
	// ErrMissing says that the server does not hold the key. The connection
	// stays good.
	ErrMissing = errors.New("no such key")
	// ErrLength says that a value is longer than any that was put. The
	// connection is to be closed.
	ErrLength = errors.New("value is too long")
	// ErrProtocol is returned (wrapped) for answers that the protocol does not
	// have. The connection is to be closed.
	ErrProtocol = errors.New("unexpected answer")
)

// A RefusedError is a server's own error: it did not do what it was asked. The
// connection stays good.
type RefusedError struct {
	Text string // the server's words, cut to maxQuote bytes
}

func (e *RefusedError) Error() string { return fmt.Sprintf("server says %q", e.Text) }

// Room returns a buffer of n bytes, or nil if n is more than a value may have.
type Room func(n int) []byte

// A Conn is a connection whose login is done. One command runs at a time.
type Conn interface {
	// Get reads the value of key into what room returns, and returns that. It
	// has asked for room only if the server holds the key.
	Get(key string, room Room) ([]byte, error)
	// Set writes head and body as one value of key. It keeps neither.
	Set(key string, head, body []byte) error
	// Delete removes key. One that is not there is no error.
	Delete(key string) error
}

// A Login is said to a server when a connection begins.
type Login struct {
	User, Password string // both empty: none
	Database       int    // of Redis
}

// A stream is what both protocols are spoken on.
type stream struct {
	conn net.Conn
	in   *bufio.Reader
	out  []byte // a command but for its value
	parts
}

// parts is a command in pieces, as one writev.
type parts struct {
	list net.Buffers
	four [4][]byte
}

func newStream(c net.Conn) stream {
	return stream{conn: c, in: bufio.NewReaderSize(c, 4<<10)}
}

var crlf = []byte("\r\n")

// send writes s.out, then the value and the end of its line. What the server has
// said unasked would be taken for the answer, so it ends the connection.
func (s *stream) send(head, body []byte) error {
	if n := s.in.Buffered(); n > 0 {
		return fmt.Errorf("%w: %d bytes that nobody asked for", ErrProtocol, n)
	}
	if len(head)+len(body) == 0 {
		_, err := s.conn.Write(s.out)
		return err
	}
	s.four = [4][]byte{s.out, head, body, crlf}
	s.list = s.four[:]
	_, err := s.list.WriteTo(s.conn)
	return err
}

// line reads a line and returns it without its end. It is good until the next
// read.
func (s *stream) line() ([]byte, error) {
	b, err := s.in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull) || len(b) > maxLine:
		return nil, fmt.Errorf("%w: a line of more than %d bytes", ErrProtocol, maxLine)
	case err != nil:
		return nil, noEOF(err, len(b))
	case !bytes.HasSuffix(b, crlf) || len(b) == len(crlf):
		return nil, unexpected(b)
	}
	return b[:len(b)-len(crlf)], nil
}

// noEOF tells an end within an answer from one before it.
func noEOF(err error, got int) error {
	if got > 0 && errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// value reads n bytes and the end of their line.
func (s *stream) value(n int, room Room) ([]byte, error) {
	b := room(n)
	if b == nil {
		return nil, ErrLength
	}
	if _, err := io.ReadFull(s.in, b[:n]); err != nil {
		return nil, noEOF(err, 1)
	}
	end, err := s.in.Peek(len(crlf))
	if err != nil {
		return nil, noEOF(err, 1)
	}
	if !bytes.Equal(end, crlf) {
		return nil, unexpected(end)
	}
	_, _ = s.in.Discard(len(crlf)) // they were peeked at
	return b[:n], nil
}

func unexpected(b []byte) error { return fmt.Errorf("%w: %q", ErrProtocol, cut(b)) }

func cut(b []byte) []byte { return b[:min(len(b), maxQuote)] }

// length reads a decimal number of bytes.
func length(b []byte) (int, error) {
	n, err := strconv.ParseUint(string(b), 10, 31)
	if err != nil {
		return 0, unexpected(b)
	}
	return int(n), nil
}
