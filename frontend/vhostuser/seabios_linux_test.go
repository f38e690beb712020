package vhostuser

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
)

// Where the boot sector reads and writes, in sectors.
const (
	biosSectors = 16
	biosRead    = 5_000
	biosWrite   = 3_000
)

// bootSector is a program for a PC's firmware: it reads biosSectors from biosRead
// through the BIOS, writes them to port 0xe9 and to biosWrite, and leaves by way of
// QEMU's isa-debug-exit.
func bootSector() []byte {
	const origin, buffer = 0x7c00, 0x8000
	packet := func(lba uint64) []byte { // of int 13h's extended functions
		b := []byte{16, 0, biosSectors, 0, buffer & 0xff, buffer >> 8, 0, 0}
		return binary.LittleEndian.AppendUint64(b, lba)
	}
	const readAt, writeAt = 0x100, 0x110
	code := []byte{
		0xfa,       // cli
		0x31, 0xc0, // xor ax,ax
		0x8e, 0xd8, // mov ds,ax
		0x8e, 0xc0, // mov es,ax
		0x8e, 0xd0, // mov ss,ax
		0xbc, 0x00, 0x7c, // mov sp,0x7c00
		0xfb,                                        // sti
		0xbe, readAt & 0xff, (origin + readAt) >> 8, // mov si,packet to read
		0xb4, 0x42, // mov ah,0x42
		0xcd, 0x13, // int 0x13
		0x72, 24, // jc fail
		0xbe, 0x00, 0x80, // mov si,buffer
		0xb9, 0x00, biosSectors * 2, // mov cx,bytes
		0xba, 0xe9, 0x00, // mov dx,0xe9
		0x52,       // push dx
		0xf3, 0x6e, // rep outsb
		0x5a,       // pop dx
		0xb2, 0x80, // mov dl,0x80: the first disk
		0xbe, writeAt & 0xff, (origin + writeAt) >> 8, // mov si,packet to write
		0xb8, 0x00, 0x43, // mov ax,0x4300
		0xcd, 0x13, // int 0x13
		0x73, 4, // jnc exit
		// fail:
		0xb0, 'F', // mov al,'F'
		0xe6, 0xe9, // out 0xe9,al
		// exit:
		0xe6, 0xf4, // out 0xf4,al
		0xf4, // hlt
	}
	sector := make([]byte, 512)
	copy(sector, code)
	copy(sector[readAt:], packet(biosRead))
	copy(sector[writeAt:], packet(biosWrite))
	sector[510], sector[511] = 0x55, 0xaa
	return sector
}

// TestSeaBIOS has QEMU's firmware drive the disk, with no other guest.
func TestSeaBIOS(t *testing.T) {
	const qemu = "qemu-system-x86_64"
	if _, err := exec.LookPath(qemu); err != nil {
		t.Skipf("needs %s (Debian: qemu-system-x86): %v", qemu, err)
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("emulating a PC takes too long here")
	}
	disk := bytes.Clone(blockdevtest.Pattern(4<<20, 10))
	copy(disk, bootSector())
	far := disk[biosRead*512:][:biosSectors*512]
	copy(far, "far from the beginning")
	scratch := blockdevtest.NewScratch(disk)
	s := &Server{Export: Export{Device: scratch, Serial: "bios"}, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	path := start(t, s)
	out := filepath.Join(t.TempDir(), "out")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	text, err := exec.CommandContext(ctx, qemu, "-accel", "tcg", "-M", "pc,memory-backend=mem", "-m", "16",
		"-object", "memory-backend-memfd,id=mem,size=16M,share=on", "-nodefaults", "-no-user-config", "-display", "none",
		"-chardev", "socket,id=disk,reconnect=1,path="+path, "-device", "vhost-user-blk-pci,chardev=disk,bootindex=1",
		"-chardev", "file,id=out,path="+out, "-device", "isa-debugcon,iobase=0xe9,chardev=out",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=1").CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		o, _ := os.ReadFile(out)
		t.Fatalf("%v\n%s %s", err, text, o)
	}
	got, readErr := os.ReadFile(out)
	if readErr != nil {
		t.Fatal(readErr)
	}
	// The firmware itself writes to this port, too.
	if !bytes.HasSuffix(got, far) {
		t.Fatalf("the boot sector printed %d bytes, ... %q\nQEMU: %v %s", len(got), got[max(0, len(got)-300):], err, text)
	}
	written := make([]byte, len(far))
	if _, err := scratch.ReadAt(written, biosWrite*512); err != nil || !bytes.Equal(written, far) {
		t.Errorf("the boot sector wrote something else: %v", err)
	}
	if strings.Contains(string(text), "vhost") {
		t.Errorf("QEMU: %s", text)
	}
}
