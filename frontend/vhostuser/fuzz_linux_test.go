package vhostuser

import (
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/transport"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/virtqueue"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/wire"
)

// FuzzSession sends messages of any kind, with descriptors of several kinds, in any
// order. Each is a byte for its number, one for what comes with it, one for its
// length, and the payload. The session comes to an end, with nothing left open.
func FuzzSession(f *testing.F) {
	one := func(r wire.Request, with byte, payload []byte) []byte {
		return append([]byte{byte(r), with, byte(len(payload))}, payload...)
	}
	state := func(i, n uint32) []byte { return wire.VringState{Index: i, Num: n}.Append(nil) }
	region := wire.Region{Guest: 0, Size: fuzzMemory, User: 0}
	var seed []byte
	for _, m := range [][]byte{
		one(wire.GetFeatures, 0, nil),
		one(wire.SetFeatures, 0, wire.AppendUint64(nil, wire.FeatureVersion1|wire.FeatureIndirect|wire.FeatureProtocolFeatures)),
		one(wire.SetProtocolFeatures, 0, wire.AppendUint64(nil, protocolFeatures)),
		one(wire.GetConfig, 0, wire.Config{Data: make([]byte, wire.BlkConfigSize)}.Append(nil)),
		one(wire.GetInflightFD, 0, wire.Inflight{Queues: 1, QueueSize: 16}.Append(nil)),
		one(wire.SetInflightFD, 1, wire.Inflight{Size: 4096, Queues: 1, QueueSize: 16}.Append(nil)),
		one(wire.SetMemTable, 1, wire.AppendTable(nil, []wire.Region{region})),
		one(wire.SetVringNum, 0, state(0, 16)),
		one(wire.SetVringAddr, 0, wire.VringAddr{Desc: 0, Avail: 512, Used: 1024}.Append(nil)),
		one(wire.SetVringKick, 2, wire.VringFile{}.Append(nil)),
		one(wire.SetVringCall, 2, wire.VringFile{}.Append(nil)),
		one(wire.AddMemReg, 1, wire.Region{Guest: 1 << 30, Size: 4096, User: 1 << 30}.Append(nil)),
		one(wire.RemMemReg, 0, wire.Region{Guest: 1 << 30, Size: 4096, User: 1 << 30}.Append(nil)),
		one(wire.GetVringBase, 0, state(0, 0)),
		one(wire.ResetDevice, 0, nil),
	} {
		seed = append(seed, m...)
		f.Add(m)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, script []byte) {
		s := &Server{Export: Export{Device: blockdevtest.NewScratch(make([]byte, 1<<20)), Queues: 2}, MaxRequests: 2}
		if err := s.begin(nil); err != nil {
			t.Fatal(err)
		}
		ours, theirs := socketPair(t)
		se, err := newSession(s, theirs)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { defer close(ended); se.run(); _ = theirs.Close() }()
		_ = ours.SetDeadline(time.Now().Add(10 * time.Second))
		play(t, ours, script)
		_ = ours.CloseWrite()
		<-ended
		_ = ours.Close()
	})
}

const fuzzMemory = 64 << 10

// play sends the script. The memory that it can share has a ring with a read in it.
func play(t *testing.T, nc *net.UnixConn, script []byte) {
	memory, err := unix.MemfdCreate("fuzz", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(memory) }()
	b := make([]byte, fuzzMemory)
	virtqueue.PutDescriptor(b, 0, 4096, 16, virtqueue.FlagNext, 1)
	virtqueue.PutDescriptor(b, 1, 8192, 513, virtqueue.FlagWrite, 0)
	b[512+2] = 1 // one chain is available
	if _, err := unix.Pwrite(memory, b, 0); err != nil {
		t.Fatal(err)
	}
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(event) }()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	for len(script) >= 3 {
		r, with, n := wire.Request(script[0]), script[1], min(int(script[2]), len(script)-3)
		files := map[byte][]int{1: {memory}, 2: {event}, 3: {int(null.Fd())}, 4: {memory, memory, event}}[with%8]
		if with >= 128 {
			_ = unix.Ftruncate(memory, int64(with)*64)
		}
		if transport.Send(nc, wire.Header{Request: r, Flags: uint32(with) & wire.FlagNeedReply}, script[3:3+n], files...) != nil {
			return
		}
		script = script[3+n:]
	}
}

func socketPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) *net.UnixConn {
		file := os.NewFile(uintptr(fd), "socket")
		defer func() { _ = file.Close() }()
		nc, err := net.FileConn(file)
		if err != nil {
			t.Fatal(err)
		}
		return nc.(*net.UnixConn)
	}
	return conn(fds[0]), conn(fds[1])
}
