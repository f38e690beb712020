package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/transport"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/virtqueue"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/wire"
)

const protocolFeatures = wire.ProtocolMultiQueue | wire.ProtocolReplyAck | wire.ProtocolConfig | wire.ProtocolInflight |
	wire.ProtocolResetDevice | wire.ProtocolMemSlots | wire.ProtocolStatus

// A session is a front end's connection. All its state is the goroutine's that
// reads the messages; guest and record change only while no ring runs.
type session struct {
	srv  *Server
	nc   *net.UnixConn
	disk *disk

	features uint64 // what the front end has chosen
	protocol uint64
	status   uint8
	rings    []ringState

	guest     guestMemory
	record    *mapping // of requests in flight; nil: none
	recordFor wire.Inflight

	faulted atomic.Bool
	heard   atomic.Int64 // when the last message came, or the front end, in ns
}

func newSession(s *Server, nc net.Conn) (*session, error) {
	u, ok := nc.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("%T carries no descriptors", nc)
	}
	se := &session{srv: s, nc: u, disk: newDisk(&s.Export, &s.stats), rings: make([]ringState, s.queues())}
	se.heard.Store(time.Now().UnixNano())
	se.disk.failed = func(op string, off int64, n int, err error) {
		s.log.Error("vhost-user: device failed", "serial", s.Export.Serial, "err", err)
	}
	return se, nil
}

// lastHeard is when the front end has said something last, from any goroutine.
func (s *session) lastHeard() time.Time { return time.Unix(0, s.heard.Load()) }

// end makes run return, from any goroutine.
func (s *session) end() { _ = s.nc.SetReadDeadline(time.Unix(1, 0)) }

// fault ends the connection since the front end has taken memory away, from any
// goroutine.
func (s *session) fault() {
	s.srv.stats.faults.Add(1)
	if !s.faulted.Swap(true) {
		s.srv.log.Error("vhost-user: connection is closed", "err", errFault)
	}
	s.end()
}

// run serves the front end until it has gone, or end.
func (s *session) run() {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	s.srv.log.Info("vhost-user: front end connected", "serial", s.srv.Export.Serial)
	err := s.serve()
	for i := range s.rings { // all at once, then one after the other
		if r := s.rings[i].running; r != nil {
			r.halt()
		}
	}
	for i := range s.rings {
		s.rings[i].reset()
	}
	s.guest.truncate(0)
	s.record.close()
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ECONNRESET):
		s.srv.log.Info("vhost-user: front end disconnected", "serial", s.srv.Export.Serial)
	default:
		s.srv.log.Warn("vhost-user: connection is closed", "serial", s.srv.Export.Serial, "err", err)
	}
}

// serve answers messages until one cannot be, or none comes.
func (s *session) serve() error {
	var in transport.Message
	for {
		if err := in.Receive(s.nc); err != nil {
			return err
		}
		s.heard.Store(time.Now().UnixNano())
		err := s.answer(&in)
		in.CloseFiles()
		if err != nil {
			return fmt.Errorf("message %d: %w", in.Request, err)
		}
	}
}

// answer does what a message asks for, and replies.
func (s *session) answer(in *transport.Message) error {
	// Replies of messages that have one, and the rest's result if it is wanted.
	reply, fd, err := s.guarded(in)
	if reply == nil && s.protocol&wire.ProtocolReplyAck != 0 && in.Flags&wire.FlagNeedReply != 0 {
		result := uint64(0)
		if err != nil {
			result = 1
			s.srv.log.Warn("vhost-user: message is refused", "message", uint32(in.Request), "err", err)
		}
		reply, err = wire.AppendUint64(nil, result), nil
	}
	if fd >= 0 {
		defer func() { _ = unix.Close(fd) }()
	}
	if err != nil || reply == nil {
		return err
	}
	if err := s.nc.SetWriteDeadline(time.Now().Add(replyTimeout)); err != nil {
		return err
	}
	var files []int
	if fd >= 0 {
		files = append(files, fd)
	}
	return transport.Send(s.nc, wire.Header{Request: in.Request, Flags: wire.FlagReply}, reply, files...)
}

// guarded is handle, with faults as errors.
func (s *session) guarded(in *transport.Message) (reply []byte, fd int, err error) {
	defer func() {
		if v := recover(); v != nil {
			if !s.isFault(v) {
				panic(v)
			}
			s.fault()
			reply, fd, err = nil, -1, errFault
		}
	}()
	return s.handle(in)
}

// handle does what a message asks for. reply is nil if the message has none of its
// own; fd goes with it and is closed by the caller, -1 for none.
func (s *session) handle(in *transport.Message) (reply []byte, fd int, err error) {
	number := func(v uint64) ([]byte, int, error) { return wire.AppendUint64(nil, v), -1, nil }
	switch in.Request {
	case wire.GetFeatures:
		return number(s.offered())
	case wire.GetProtocolFeatures:
		return number(protocolFeatures)
	case wire.GetQueueNum:
		return number(uint64(len(s.rings)))
	case wire.GetMaxMemSlots:
		return number(maxRegions)
	case wire.GetStatus:
		return number(uint64(s.status))
	case wire.GetConfig:
		reply, err = s.getConfig(in.Payload)
		return reply, -1, err
	case wire.GetVringBase:
		reply, err = s.getVringBase(in.Payload)
		return reply, -1, err
	case wire.GetInflightFD:
		return s.getInflight(in.Payload)
	}
	return nil, -1, s.set(in)
}

// set handles the messages that have no reply of their own.
func (s *session) set(in *transport.Message) error {
	switch in.Request {
	case wire.SetOwner:
		return nil
	case wire.SetFeatures:
		return s.setFeatures(in.Payload)
	case wire.SetProtocolFeatures:
		v, err := wire.ParseUint64(in.Payload)
		if err == nil && v&^protocolFeatures != 0 {
			err = fmt.Errorf("protocol features %#x were not offered", v&^protocolFeatures)
		}
		if err == nil {
			s.protocol = v
		}
		return err
	case wire.SetStatus:
		v, err := wire.ParseUint64(in.Payload)
		if err == nil {
			s.status = uint8(v)
		}
		if err == nil && s.status == 0 {
			s.stopRings()
		}
		return err
	case wire.ResetDevice, wire.ResetOwner:
		for i := range s.rings {
			s.rings[i].reset()
		}
		s.status = 0
		return nil
	case wire.SetConfig:
		return s.setConfig(in.Payload)
	case wire.SetMemTable, wire.AddMemReg, wire.RemMemReg, wire.SetInflightFD:
		return s.changeMemory(in)
	}
	return s.setVring(in)
}

func (s *session) offered() uint64 {
	return s.disk.features() | wire.FeatureVersion1 | wire.FeatureIndirect | wire.FeatureEventIndex | wire.FeatureProtocolFeatures
}

func (s *session) setFeatures(payload []byte) error {
	v, err := wire.ParseUint64(payload)
	if err != nil {
		return err
	}
	if v&^s.offered() != 0 {
		return fmt.Errorf("features %#x were not offered", v&^s.offered())
	}
	s.features = v
	// A driver that knows of no cache cannot flush it.
	if v&(wire.FeatureConfigWCE|wire.FeatureFlush) == 0 {
		s.disk.through.Store(true)
	} else if v&wire.FeatureConfigWCE == 0 {
		s.disk.through.Store(false)
	}
	return nil
}

func (s *session) getConfig(payload []byte) ([]byte, error) {
	c, err := wire.ParseConfig(payload)
	if err != nil {
		return nil, err
	}
	space := make([]byte, wire.MaxConfig)
	copy(space, s.disk.config(len(s.rings)))
	c.Data = space[c.Offset:][:len(c.Data)]
	return c.Append(nil), nil
}

// setConfig sets the one byte that can be: whether there is a volatile cache.
func (s *session) setConfig(payload []byte) error {
	c, err := wire.ParseConfig(payload)
	if err != nil {
		return err
	}
	if c.Offset != wire.WritebackOffset || len(c.Data) != 1 || !s.disk.writable {
		return fmt.Errorf("configuration: %d bytes at %d cannot be written", len(c.Data), c.Offset)
	}
	through := c.Data[0]&1 == 0
	s.disk.through.Store(through)
	if through && s.disk.flush() != wire.StatusOK {
		return errors.New("configuration: flush failed")
	}
	return nil
}

// changeMemory handles the messages that change what is mapped: the rings stand
// still meanwhile.
func (s *session) changeMemory(in *transport.Message) error {
	ran := s.stopRings()
	err := s.remap(in)
	for _, r := range ran {
		if err == nil {
			err = s.start(r)
		}
	}
	return err
}

func (s *session) remap(in *transport.Message) error {
	switch in.Request {
	case wire.SetMemTable:
		table, err := wire.ParseTable(in.Payload)
		if err != nil {
			return err
		}
		s.guest.truncate(0)
		return s.guest.add(table, in.Files)
	case wire.AddMemReg:
		r, err := wire.ParseRegion(in.Payload)
		if err != nil {
			return err
		}
		return s.guest.add([]wire.Region{r}, in.Files)
	case wire.RemMemReg:
		r, err := wire.ParseRegion(in.Payload)
		if err != nil {
			return err
		}
		return s.guest.remove(r)
	}
	return s.setInflight(in)
}

// getInflight makes the record of requests in flight, for the front end to keep.
func (s *session) getInflight(payload []byte) ([]byte, int, error) {
	i, err := wire.ParseInflight(payload)
	if err != nil {
		return nil, -1, err
	}
	if i.Queues == 0 || int(i.Queues) > len(s.rings) || i.QueueSize == 0 || i.QueueSize > virtqueue.MaxSize {
		return nil, -1, fmt.Errorf("inflight record for %d rings of %d descriptors", i.Queues, i.QueueSize)
	}
	// For rings of any size: QEMU's over virtio-mmio are larger than it says here.
	i.Offset, i.Size = 0, uint64(i.Queues)*virtqueue.InflightBytes(virtqueue.MaxSize)
	fd, err := newInflight(i)
	if err != nil {
		return nil, -1, err
	}
	return i.Append(nil), fd, nil
}

// recordEach is how much of the record is for one ring.
func (s *session) recordEach() uint64 {
	const align = 64
	return s.recordFor.Size / uint64(s.recordFor.Queues) &^ (align - 1)
}

// setInflight takes over a record, an earlier process's or an empty one.
func (s *session) setInflight(in *transport.Message) error {
	i, err := wire.ParseInflight(in.Payload)
	if err != nil {
		return err
	}
	if len(in.Files) != 1 || i.Queues == 0 || i.QueueSize > virtqueue.MaxSize || i.Size < uint64(i.Queues)*virtqueue.InflightBytes(int(i.QueueSize)) {
		return fmt.Errorf("inflight record of %d bytes for %d rings of %d, with %d descriptors", i.Size, i.Queues, i.QueueSize, len(in.Files))
	}
	m, err := mapFile(in.Files[0], i.Offset, i.Size)
	if err != nil {
		return fmt.Errorf("inflight record: %w", err)
	}
	if i.Offset%8 != 0 {
		m.close()
		return fmt.Errorf("inflight record at %#x", i.Offset)
	}
	s.record.close()
	s.record, s.recordFor = m, i
	s.disk.kept = true
	return nil
}

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
