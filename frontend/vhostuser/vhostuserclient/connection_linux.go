package vhostuserclient

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/transport"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/virtqueue"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/wire"
)

// A connection is one to a back end. Its messages are the client's mu's.
type connection struct {
	nc       *net.UnixConn
	timeout  time.Duration
	features uint64
	protocol uint64
	in       transport.Message
}

// send sends a message and, if it has an answer, returns that.
func (n *connection) send(r wire.Request, payload []byte, answer bool, files ...int) (*transport.Message, error) {
	h := wire.Header{Request: r}
	acks := !answer && n.protocol&wire.ProtocolReplyAck != 0
	if acks {
		h.Flags |= wire.FlagNeedReply
	}
	err := n.nc.SetDeadline(time.Now().Add(n.timeout))
	if err == nil {
		err = transport.Send(n.nc, h, payload, files...)
	}
	if err == nil && (answer || acks) {
		err = n.in.Receive(n.nc)
		if err == nil && (n.in.Request != r || n.in.Flags&wire.FlagReply == 0) {
			n.in.CloseFiles()
			err = fmt.Errorf("the answer is to message %d", n.in.Request)
		}
	}
	if err == nil && acks {
		n.in.CloseFiles()
		var v uint64
		if v, err = wire.ParseUint64(n.in.Payload); err == nil && v != 0 {
			err = errors.New("it was refused")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("message %d: %w", r, err)
	}
	return &n.in, nil
}

// set sends a message that has no answer but that it was understood.
func (n *connection) set(r wire.Request, payload []byte, files ...int) error {
	_, err := n.send(r, payload, false, files...)
	return err
}

// get asks for a number.
func (n *connection) get(r wire.Request) (uint64, error) {
	in, err := n.send(r, nil, true)
	if err != nil {
		return 0, err
	}
	in.CloseFiles()
	return wire.ParseUint64(in.Payload)
}

func (n *connection) state(r wire.Request, s wire.VringState) (wire.VringState, error) {
	in, err := n.send(r, s.Append(nil), true)
	if err != nil {
		return s, err
	}
	in.CloseFiles()
	return wire.ParseVringState(in.Payload)
}

// awaitEnd returns when the other end, or shut, has closed the connection.
func (n *connection) awaitEnd() {
	raw, err := n.nc.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for {
			watch := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
			if _, err := unix.Poll(watch, -1); err != unix.EINTR {
				return
			}
		}
	})
}

func (n *connection) shut() {
	_ = n.nc.CloseRead()
	_ = n.nc.CloseWrite()
}

// setUp agrees on features and starts the queues. c.mu is held.
func (n *connection) setUp(c *Client) error {
	if err := n.negotiate(c); err != nil {
		return err
	}
	if err := n.setInflight(c); err != nil {
		return err
	}
	if err := n.share(c); err != nil {
		return err
	}
	for i, q := range c.queues {
		if err := n.start(c, uint32(i), q); err != nil {
			return err
		}
	}
	return nil
}

func (n *connection) negotiate(c *Client) error {
	offered, err := n.get(wire.GetFeatures)
	if err != nil {
		return err
	}
	if offered&wire.FeatureVersion1 == 0 || offered&wire.FeatureProtocolFeatures == 0 {
		return fmt.Errorf("features %#x: VERSION_1 or PROTOCOL_FEATURES is missing", offered)
	}
	protocol, err := n.get(wire.GetProtocolFeatures)
	if err != nil {
		return err
	}
	wanted := uint64(wire.ProtocolMultiQueue | wire.ProtocolReplyAck | wire.ProtocolConfig | wire.ProtocolInflight | wire.ProtocolMemSlots | wire.ProtocolStatus)
	if !c.d.Slots {
		wanted &^= wire.ProtocolMemSlots
	}
	if err := n.set(wire.SetProtocolFeatures, wire.AppendUint64(nil, protocol&wanted)); err != nil {
		return err
	}
	n.protocol = protocol & wanted
	if err := n.set(wire.SetOwner, nil); err != nil {
		return err
	}
	if n.protocol&wire.ProtocolMultiQueue != 0 {
		most, err := n.get(wire.GetQueueNum)
		if err != nil {
			return err
		}
		if uint64(c.d.Queues) > most {
			return fmt.Errorf("%d queues, and the back end has %d", c.d.Queues, most)
		}
	}
	in, err := n.send(wire.GetConfig, wire.Config{Data: make([]byte, wire.BlkConfigSize)}.Append(nil), true)
	if err != nil {
		return err
	}
	in.CloseFiles()
	space, err := wire.ParseConfig(in.Payload)
	if err != nil {
		return err
	}
	config, err := wire.ParseBlkConfig(space.Data)
	if err != nil {
		return err
	}
	// It was agreed on with the first back end, and is read without a lock.
	readOnly := offered&wire.FeatureReadOnly != 0
	if first := c.config.Capacity == 0; first {
		c.config, c.readOnly = config, readOnly
	} else if config.Capacity != c.config.Capacity || readOnly != c.readOnly {
		return errors.New("the disk is not the one that it was")
	}
	n.features = offered & (wire.FeatureVersion1 | wire.FeatureProtocolFeatures | wire.FeatureReadOnly | wire.FeatureFlush |
		wire.FeatureConfigWCE | wire.FeatureMultiQueue | wire.FeatureDiscard | wire.FeatureWriteZeroes | wire.FeatureSegMax | wire.FeatureBlockSize)
	if !c.d.Chained {
		n.features |= wire.FeatureIndirect & offered
	}
	if !c.d.NoEventIndex {
		n.features |= wire.FeatureEventIndex & offered
	}
	return n.set(wire.SetFeatures, wire.AppendUint64(nil, n.features))
}

// setInflight gives the back end the record of requests in flight, which the first
// one makes.
func (n *connection) setInflight(c *Client) error {
	if n.protocol&wire.ProtocolInflight == 0 {
		if c.d.Reconnect {
			return errors.New("the back end keeps no record of requests in flight")
		}
		return nil
	}
	if c.inflight < 0 {
		want := wire.Inflight{Queues: uint16(c.d.Queues), QueueSize: uint16(c.d.QueueSize)}
		in, err := n.send(wire.GetInflightFD, want.Append(nil), true)
		if err != nil {
			return err
		}
		if len(in.Files) != 1 {
			in.CloseFiles()
			return errors.New("the record of requests in flight comes without its descriptor")
		}
		c.inflight, in.Files = in.Files[0], nil
		if c.record, err = wire.ParseInflight(in.Payload); err != nil {
			return err
		}
	}
	return n.set(wire.SetInflightFD, c.record.Append(nil), c.inflight)
}

// share gives the back end the memory.
func (n *connection) share(c *Client) error {
	regions := c.memory.regions()
	if n.protocol&wire.ProtocolMemSlots == 0 {
		return n.set(wire.SetMemTable, wire.AppendTable(nil, regions), c.memory.fd, c.memory.fd)
	}
	if _, err := n.get(wire.GetMaxMemSlots); err != nil {
		return err
	}
	for _, r := range regions {
		if err := n.set(wire.AddMemReg, r.Append(nil), c.memory.fd); err != nil {
			return err
		}
	}
	return nil
}

// start starts one queue, from where the last back end has left it.
func (n *connection) start(c *Client, i uint32, q *Queue) error {
	user := func(b []byte) uint64 { return c.memory.user(b) }
	addr := wire.VringAddr{Index: i, Desc: user(q.desc), Used: user(q.used), Avail: user(q.avail)}
	kick := wire.VringFile{Index: int(i), NoFile: c.d.Blind}
	files := []int{q.kick}
	if c.d.Blind {
		files = nil
	}
	call := wire.VringFile{Index: int(i)}
	for _, err := range []error{
		n.set(wire.SetVringNum, wire.VringState{Index: i, Num: uint32(c.d.QueueSize)}.Append(nil)),
		n.set(wire.SetVringBase, wire.VringState{Index: i, Num: uint32(q.driver.UsedIndex())}.Append(nil)),
		n.set(wire.SetVringAddr, addr.Append(nil)),
		n.set(wire.SetVringErr, call.Append(nil), q.broken),
		n.set(wire.SetVringKick, kick.Append(nil), files...),
		n.set(wire.SetVringCall, call.Append(nil), q.call),
		n.set(wire.SetVringEnable, wire.VringState{Index: i, Num: 1}.Append(nil)),
	} {
		if err != nil {
			return err
		}
	}
	if n.protocol&wire.ProtocolStatus != 0 && int(i) == len(c.queues)-1 {
		const acknowledged, driver, featuresOK, driverOK = 1, 2, 8, 4
		if err := n.set(wire.SetStatus, wire.AppendUint64(nil, acknowledged|driver|featuresOK|driverOK)); err != nil {
			return err
		}
	}
	signal(q.kick) // what was made available meanwhile
	return nil
}

// virtqueueBytes is the room of a queue's rings, each on pages of its own.
func virtqueueBytes(size int) (desc, avail, used int) {
	up := func(n uint64) int { return int(n+pageSize-1) &^ (pageSize - 1) }
	return up(virtqueue.DescBytes(size)), up(virtqueue.AvailBytes(size)), up(virtqueue.UsedBytes(size))
}
