package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/blockdev"
)

// TestJoin reads as the kernel does: without a handshake, by simple replies.
func TestJoin(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<10)
	var s Server
	defer s.Close()
	if err := s.AddExport(Export{Name: "disk", Device: blockdev.NewFlat(bytes.NewReader(content), int64(len(content)))}); err != nil {
		t.Fatal(err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	kernel := os.NewFile(uintptr(fds[1]), "kernel's end")
	defer func() { _ = kernel.Close() }()
	if err := s.Join(t.Context(), "disk", fds[0]); err != nil {
		t.Fatal(err)
	}
	request := func(command uint16, offset, length int) {
		b := binary.BigEndian.AppendUint32(nil, 0x25609513)
		b = binary.BigEndian.AppendUint16(b, 0)
		b = binary.BigEndian.AppendUint16(b, command)
		b = binary.BigEndian.AppendUint64(b, 7)
		b = binary.BigEndian.AppendUint64(b, uint64(offset))
		if _, err := kernel.Write(binary.BigEndian.AppendUint32(b, uint32(length))); err != nil {
			t.Fatal(err)
		}
	}
	request(0, 4096, 512)
	reply := make([]byte, 16+512)
	if _, err := io.ReadFull(kernel, reply); err != nil {
		t.Fatal(err)
	}
	if magic, failed := binary.BigEndian.Uint32(reply), binary.BigEndian.Uint32(reply[4:]); magic != 0x67446698 || failed != 0 ||
		binary.BigEndian.Uint64(reply[8:]) != 7 || !bytes.Equal(reply[16:], content[4096:4096+512]) {
		t.Errorf("reply %x", reply[:16])
	}
	request(2, 0, 0)
	if n, err := kernel.Read(reply); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %d bytes, %v", n, err)
	}
	if err := s.RemoveExport(t.Context(), "disk"); err != nil {
		t.Error(err)
	}
}

// TestJoinUnknown closes the socket of a client whose export is not there.
func TestJoinUnknown(t *testing.T) {
	var s Server
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	kernel := os.NewFile(uintptr(fds[1]), "kernel's end")
	defer func() { _ = kernel.Close() }()
	if err := s.Join(t.Context(), "disk", fds[0]); !errors.Is(err, ErrUnknownExport) {
		t.Errorf("joined: %v", err)
	}
	if n, err := kernel.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("the socket is open: %d, %v", n, err)
	}
}
