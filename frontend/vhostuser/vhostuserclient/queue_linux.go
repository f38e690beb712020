package vhostuserclient

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/virtqueue"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/wire"
)

const (
	pageSize = 4096

	// A slot is a page of header, status and indirect table, and then data.
	atStatus    = 64
	atTable     = 128
	maxSegments = (pageSize-atTable)/virtqueue.DescriptorSize - 2

	// Guest addresses of the two regions: rings, and slots.
	guestRings = 1 << 20
	guestSlots = 1 << 33
	userBase   = 0x7f00_0000_0000 // what we tell the back end, which is any number
)

// memory is what the client shares: one file, mapped once, as two regions.
type memory struct {
	fd    int
	all   []byte
	rings int // bytes of the first region
}

func newMemory(d *Dialer) (*memory, error) {
	desc, avail, used := virtqueueBytes(d.QueueSize)
	m := &memory{rings: (desc + avail + used) * d.Queues}
	size := m.rings + d.Queues*d.Depth*(pageSize+d.Buffer)
	var err error
	if m.fd, err = unix.MemfdCreate("vhost-user-memory", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING); err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	err = unix.Ftruncate(m.fd, int64(size))
	if err == nil && !d.Shrinkable {
		_, err = unix.FcntlInt(uintptr(m.fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW)
	}
	if err == nil {
		m.all, err = unix.Mmap(m.fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		_ = unix.Close(m.fd)
		return nil, fmt.Errorf("make shared memory: %w", err)
	}
	return m, nil
}

func (m *memory) free() {
	if m != nil {
		_ = unix.Munmap(m.all)
		_ = unix.Close(m.fd)
	}
}

func (m *memory) offset(b []byte) uint64 {
	return uint64(uintptr(unsafe.Pointer(&b[0])) - uintptr(unsafe.Pointer(&m.all[0])))
}

func (m *memory) user(b []byte) uint64 { return userBase + m.offset(b) }

func (m *memory) guest(b []byte) uint64 {
	if at := m.offset(b); at >= uint64(m.rings) {
		return guestSlots + at - uint64(m.rings)
	}
	return guestRings + m.offset(b)
}

func (m *memory) regions() []wire.Region {
	r := uint64(m.rings)
	return []wire.Region{
		{Guest: guestRings, Size: r, User: userBase},
		{Guest: guestSlots, Size: uint64(len(m.all)) - r, User: userBase + r, Offset: r},
	}
}

// A Queue is one ring and the memory of its requests, which are called slots, from
// 0 to Depth-1.
type Queue struct {
	c                 *Client
	driver            *virtqueue.Driver
	desc, avail, used []byte
	slots             []slot
	kick, call        int
	broken            int // signalled by a back end that gives the ring up
	epoll, stop       int
	ended             atomic.Bool

	mu      sync.Mutex // of those who make requests available
	idle    chan uint16
	reaper  sync.Once
	reaping sync.WaitGroup
}

// A slot is the memory of one request.
type slot struct {
	page []byte // header, status, table
	data []byte
	head uint16
	busy atomic.Bool   // from Submit to Reap
	done chan struct{} // of do
}

func newQueue(c *Client, i int) (*Queue, error) {
	d := &c.d
	desc, avail, used := virtqueueBytes(d.QueueSize)
	at := (desc + avail + used) * i
	cut := func(n int) []byte {
		b := c.memory.all[at : at+n : at+n]
		at += n
		return b
	}
	q := &Queue{c: c, idle: make(chan uint16, d.Depth), kick: -1, call: -1, broken: -1, epoll: -1, stop: -1}
	q.desc, q.avail, q.used = cut(desc), cut(avail), cut(used)
	at = c.memory.rings + i*d.Depth*(pageSize+d.Buffer)
	q.slots = make([]slot, d.Depth)
	for k := range q.slots {
		s := &q.slots[k]
		s.page, s.head, s.done = cut(pageSize), uint16(k), make(chan struct{}, 1)
		if d.Chained {
			s.head = uint16(k * (d.Segments + 2))
		}
		s.data = cut(d.Buffer)
		q.idle <- uint16(k)
	}
	var err error
	if q.driver, err = virtqueue.NewDriver(q.desc, q.avail, q.used, d.QueueSize, !d.NoEventIndex); err != nil {
		return nil, err
	}
	for _, fd := range []*int{&q.kick, &q.call, &q.broken, &q.stop} {
		if *fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			q.free()
			return nil, os.NewSyscallError("eventfd", err)
		}
	}
	if q.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		err = unix.EpollCtl(q.epoll, unix.EPOLL_CTL_ADD, q.call, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET})
	}
	if err == nil {
		err = unix.EpollCtl(q.epoll, unix.EPOLL_CTL_ADD, q.stop, &unix.EpollEvent{Events: unix.EPOLLIN})
	}
	if err != nil {
		q.free()
		return nil, os.NewSyscallError("epoll", err)
	}
	return q, nil
}

func (q *Queue) free() {
	for _, fd := range []int{q.kick, q.call, q.broken, q.epoll, q.stop} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

func signal(fd int) {
	one := [8]byte{1}
	_, _ = unix.Write(fd, one[:])
}

// end fails what waits.
func (q *Queue) end() {
	q.ended.Store(true)
	signal(q.stop)
}

// Depth is the number of slots.
func (q *Queue) Depth() int { return len(q.slots) }

// Data is a slot's memory for data, which is the back end's from Submit until Reap.
func (q *Queue) Data(n int) []byte { return q.slots[n].data }

// Read prepares a slot for a read of n bytes at a sector.
func (q *Queue) Read(slot int, sector uint64, n int) { q.prepare(slot, wire.BlkIn, sector, n) }

// Write prepares a slot for a write of n bytes at a sector.
func (q *Queue) Write(slot int, sector uint64, n int) { q.prepare(slot, wire.BlkOut, sector, n) }

// prepare writes a slot's header and descriptors.
func (q *Queue) prepare(n int, typ uint32, sector uint64, bytes int) {
	s := &q.slots[n]
	m := q.c.memory
	wire.BlkHeader{Type: typ, Sector: sector}.Put(s.page)
	s.page[atStatus] = 0xff
	i := 0
	add := func(b []byte, size int, flags uint16) {
		if q.c.d.Chained {
			q.driver.Set(int(s.head)+i, m.guest(b), uint32(size), flags, s.head+uint16(i)+1)
		} else {
			virtqueue.PutDescriptor(s.page[atTable:], i, m.guest(b), uint32(size), flags, uint16(i)+1)
		}
		i++
	}
	add(s.page, wire.BlkHeaderSize, virtqueue.FlagNext)
	flags := uint16(virtqueue.FlagNext)
	if typ == wire.BlkIn || typ == wire.BlkGetID {
		flags |= virtqueue.FlagWrite
	}
	for part, at := q.c.d.Segments, 0; at < bytes; part-- {
		k := bytes - at
		if part > 1 {
			k = max(1, k/part)
		}
		add(s.data[at:], k, flags)
		at += k
	}
	add(s.page[atStatus:], 1, virtqueue.FlagWrite)
	if !q.c.d.Chained {
		q.driver.Set(int(s.head), m.guest(s.page[atTable:]), uint32(i*virtqueue.DescriptorSize), virtqueue.FlagIndirect, 0)
	}
}

// Submit makes a slot available with the next Kick.
func (q *Queue) Submit(slot int) {
	q.slots[slot].busy.Store(true)
	q.driver.Offer(q.slots[slot].head)
}

// Kick shows the back end what was submitted, and wakes it if it wants that.
func (q *Queue) Kick() {
	if q.driver.Publish() {
		signal(q.kick)
	}
}

// Reap takes back one slot that was answered, and the error of its request. ok is
// false if there is none now.
func (q *Queue) Reap() (slot int, err error, ok bool) { //nolint:staticcheck // the error is the request's
	head, _, ok := q.driver.Used()
	if !ok {
		return 0, nil, false
	}
	slot = int(head)
	if q.c.d.Chained {
		slot /= q.c.d.Segments + 2
	}
	if slot >= len(q.slots) || !q.slots[slot].busy.Swap(false) {
		q.c.spurious.Add(1)
		return q.Reap()
	}
	switch status := q.slots[slot].page[atStatus]; status {
	case wire.StatusOK:
	case wire.StatusUnsupported:
		err = ErrUnsupported
	default:
		err = fmt.Errorf("%w: status %d", ErrIO, status)
	}
	return slot, err, true
}

// Wait returns when there may be something to reap. It fails once the client has
// ended.
func (q *Queue) Wait() error {
	if q.ended.Load() {
		return ErrClosed
	}
	if !q.driver.Arm() {
		var events [2]unix.EpollEvent
		_, _ = unix.EpollWait(q.epoll, events[:], -1)
	}
	q.driver.Quiet()
	return nil
}

// reap takes answers until the client ends.
func (q *Queue) reap() {
	for err := error(nil); err == nil; {
		err = q.Wait()
		for { // also what was answered just before the end
			slot, _, ok := q.Reap()
			if !ok {
				break
			}
			q.slots[slot].done <- struct{}{}
		}
	}
}

// do has one request done. fill writes its data, drain reads them afterwards.
func (q *Queue) do(typ uint32, sector uint64, n int, fill, drain func(data []byte)) error {
	q.reaper.Do(func() { q.reaping.Go(q.reap) })
	var i uint16
	select {
	case i = <-q.idle:
	case <-q.c.closed:
		return ErrClosed
	}
	s := &q.slots[i]
	if fill != nil {
		fill(s.data[:n])
	}
	q.mu.Lock()
	q.prepare(int(i), typ, sector, n)
	q.Submit(int(i))
	q.Kick()
	q.mu.Unlock()
	select {
	case <-s.done:
	case <-q.c.closed:
		q.reaping.Wait()
		select {
		case <-s.done:
		default:
			return ErrClosed // the slot is the back end's for ever
		}
	}
	status := s.page[atStatus]
	if drain != nil && status == wire.StatusOK {
		drain(s.data[:n])
	}
	q.idle <- i
	switch status {
	case wire.StatusOK:
		return nil
	case wire.StatusUnsupported:
		return ErrUnsupported
	}
	return fmt.Errorf("%w: status %d", ErrIO, status)
}
