package vhostuser

import (
	"errors"
	"fmt"

	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/transport"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/virtqueue"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/wire"
)

// A ringState is what the front end has said about a ring, and the ring while it is
// served.
type ringState struct {
	size    int
	addr    wire.VringAddr
	placed  bool // addr is set
	base    uint16
	kick    *event
	call    *event
	failed  *event
	ready   bool // SetVringKick has come
	stopped bool // SetVringEnable has said 0. QEMU before 7.2 never says 1
	running *ring
}

// ring returns the state of the ring with the given index.
func (s *session) ring(i uint32) (*ringState, error) {
	if i >= uint32(len(s.rings)) {
		return nil, fmt.Errorf("ring %d of %d", i, len(s.rings))
	}
	return &s.rings[i], nil
}

// getVringBase stops a ring and returns where it has come to.
func (s *session) getVringBase(payload []byte) ([]byte, error) {
	v, err := wire.ParseVringState(payload)
	if err != nil {
		return nil, err
	}
	r, err := s.ring(v.Index)
	if err != nil {
		return nil, err
	}
	r.stop()
	r.ready = false
	r.kick.close()
	r.kick = nil
	return wire.VringState{Index: v.Index, Num: uint32(r.base)}.Append(nil), nil
}

// setVring handles the messages about one ring.
func (s *session) setVring(in *transport.Message) error {
	switch in.Request {
	case wire.SetVringKick, wire.SetVringCall, wire.SetVringErr:
		return s.setVringFile(in)
	case wire.SetVringAddr:
		a, err := wire.ParseVringAddr(in.Payload)
		if err != nil {
			return err
		}
		r, err := s.ring(a.Index)
		if err != nil {
			return err
		}
		return s.changeRing(r, func() { r.addr, r.placed = a, true })
	case wire.SetVringNum, wire.SetVringBase, wire.SetVringEnable:
		v, err := wire.ParseVringState(in.Payload)
		if err != nil {
			return err
		}
		r, err := s.ring(v.Index)
		if err != nil {
			return err
		}
		switch {
		case in.Request == wire.SetVringEnable:
			return s.changeRing(r, func() { r.stopped = v.Num == 0 })
		case in.Request == wire.SetVringBase && v.Num <= 0xffff:
			return s.changeRing(r, func() { r.base = uint16(v.Num) })
		case in.Request == wire.SetVringNum && v.Num <= virtqueue.MaxSize:
			return s.changeRing(r, func() { r.size = int(v.Num) })
		}
		return fmt.Errorf("ring %d: %d is out of range", v.Index, v.Num)
	}
	return errors.New("is not known, or belongs to a feature that was not offered")
}

// changeRing changes what is known about a ring. If that runs it is stopped for
// that long.
func (s *session) changeRing(r *ringState, change func()) error {
	r.stop()
	change()
	return s.start(r)
}

// setVringFile takes over whom to wait for or whom to wake.
func (s *session) setVringFile(in *transport.Message) error {
	f, err := wire.ParseVringFile(in.Payload)
	if err != nil {
		return err
	}
	r, err := s.ring(uint32(f.Index))
	if err != nil {
		return err
	}
	var e *event
	if !f.NoFile {
		if len(in.Files) != 1 {
			return fmt.Errorf("ring %d: %d descriptors, want 1", f.Index, len(in.Files))
		}
		if e, err = newEvent(in.Files[0]); err != nil {
			return fmt.Errorf("ring %d: %w", f.Index, err)
		}
		in.Files = in.Files[:0]
	}
	switch in.Request {
	case wire.SetVringKick:
		return s.changeRing(r, func() {
			r.kick.close()
			r.kick, r.ready = e, true
		})
	case wire.SetVringErr:
		return s.changeRing(r, func() {
			r.failed.close()
			r.failed = e
		})
	}
	// Front ends change this one often, as guests mask interrupts.
	old := r.call
	r.call = e
	if r.running != nil {
		r.running.setCall(e)
	}
	old.close()
	return nil
}

// start serves a ring if all that is needed for that has been said.
func (s *session) start(r *ringState) error {
	if !r.ready || r.stopped || !r.placed || r.size == 0 || s.guest.memory == nil {
		return nil
	}
	c := virtqueue.Config{
		Size: r.size, Desc: r.addr.Desc, Avail: r.addr.Avail, Used: r.addr.Used, Next: r.base,
		Indirect: s.features&wire.FeatureIndirect != 0, EventIndex: s.features&wire.FeatureEventIndex != 0,
	}
	if s.record != nil {
		each := s.recordEach()
		at := each * uint64(r.addr.Index)
		if virtqueue.InflightBytes(r.size) > each || r.addr.Index >= uint32(s.recordFor.Queues) {
			return fmt.Errorf("ring %d of %d descriptors: the inflight record is for %d rings of %d",
				r.addr.Index, r.size, s.recordFor.Queues, s.recordFor.QueueSize)
		}
		c.Inflight = s.record.data[at : at+each]
	}
	q, err := virtqueue.New(s.guest.memory, c)
	if err != nil {
		return fmt.Errorf("ring %d: %w", r.addr.Index, err)
	}
	if n := q.Resubmitted(); n > 0 {
		s.srv.stats.resubmitted.Add(int64(n))
		s.srv.log.Info("vhost-user: requests of an earlier process are done again", "ring", r.addr.Index, "requests", n)
	}
	r.running, err = startRing(s, int(r.addr.Index), q, r.kick, r.call, r.failed)
	return err
}

// stop stops the ring if it runs.
func (r *ringState) stop() {
	if r.running != nil {
		r.base = r.running.stop()
		r.running = nil
	}
}

// reset stops the ring and forgets all about it.
func (r *ringState) reset() {
	r.stop()
	r.kick.close()
	r.call.close()
	r.failed.close()
	*r = ringState{}
}

// stopRings stops what runs, and returns it.
func (s *session) stopRings() (ran []*ringState) {
	for i := range s.rings {
		if r := &s.rings[i]; r.running != nil {
			r.running.halt()
			ran = append(ran, r)
		}
	}
	for _, r := range ran {
		r.stop()
	}
	return ran
}
