package vhostuser

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/virtqueue"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/wire"
)

// maxRegions bounds the regions of a guest's memory: what QEMU can use.
const maxRegions = 509

// A mapping is a part of somebody else's file in our memory.
type mapping struct {
	all  []byte // as mapped
	data []byte // the part that was asked for
	// solid says that the file cannot get shorter, so that no access faults.
	solid bool
}

// mapFile maps size bytes of fd at offset, which must be there. fd stays the
// caller's.
func mapFile(fd int, offset, size uint64) (*mapping, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || size == 0 || size > uint64(st.Size) || offset > uint64(st.Size)-size {
		return nil, fmt.Errorf("map %#x bytes at %#x: the file has %#x, or is none", size, offset, st.Size)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return nil, os.NewSyscallError("fstatfs", err)
	}
	page, huge := uint64(os.Getpagesize()), fs.Type == unix.HUGETLBFS_MAGIC
	if huge {
		page = uint64(fs.Bsize)
	}
	from := offset &^ (page - 1)
	length := (offset - from + size + page - 1) &^ (page - 1)
	all, err := unix.Mmap(fd, int64(from), int(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	_ = unix.Madvise(all, unix.MADV_DONTDUMP) // a guest's memory is not for our core files
	at := offset - from
	m := &mapping{all: all, data: all[at : at+size : at+size]}
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	// Huge pages can be taken out of the middle of a sealed file, and need not come
	// back.
	m.solid = err == nil && seals&unix.F_SEAL_SHRINK != 0 && !huge
	return m, nil
}

func (m *mapping) close() {
	if m != nil {
		_ = unix.Munmap(m.all)
	}
}

// A guestRegion is one region of the guest's memory, mapped.
type guestRegion struct {
	wire.Region
	*mapping
}

// guestMemory is all that the front end has shared. It changes only while no ring
// runs.
type guestMemory struct {
	regions []guestRegion
	memory  *virtqueue.Memory
	direct  bool // all of it is solid
}

// add maps further regions, each from its descriptor, or none of them.
func (g *guestMemory) add(regions []wire.Region, files []int) error {
	if len(files) != len(regions) {
		return fmt.Errorf("%d memory regions with %d descriptors", len(regions), len(files))
	}
	if len(g.regions)+len(regions) > maxRegions {
		return fmt.Errorf("more than %d memory regions", maxRegions)
	}
	old, err := len(g.regions), error(nil)
	for i := 0; i < len(regions) && err == nil; i++ {
		var m *mapping
		if m, err = mapFile(files[i], regions[i].Offset, regions[i].Size); err == nil {
			g.regions = append(g.regions, guestRegion{regions[i], m})
		}
	}
	if err == nil {
		err = g.index()
	}
	if err != nil {
		g.truncate(old)
		return errors.Join(err, g.index())
	}
	return nil
}

// remove unmaps the region that has r's addresses and size.
func (g *guestMemory) remove(r wire.Region) error {
	for i, have := range g.regions {
		if have.Guest == r.Guest && have.User == r.User && have.Size == r.Size {
			have.close()
			g.regions = append(g.regions[:i], g.regions[i+1:]...)
			return g.index()
		}
	}
	return fmt.Errorf("no memory region of %#x bytes at %#x", r.Size, r.Guest)
}

// truncate unmaps the regions from the nth on.
func (g *guestMemory) truncate(n int) {
	for _, r := range g.regions[n:] {
		r.close()
	}
	g.regions = g.regions[:n]
}

func (g *guestMemory) index() error {
	list := make([]virtqueue.Region, len(g.regions))
	direct := true
	for i, r := range g.regions {
		list[i] = virtqueue.Region{Guest: r.Guest, User: r.User, Data: r.data}
		direct = direct && r.solid
	}
	m, err := virtqueue.NewMemory(list)
	if err == nil {
		g.memory, g.direct = m, direct
	}
	return err
}

// An event is an eventfd that somebody else has made. Its descriptor is not in the
// runtime's poller, which it would wake for every event.
type event struct{ fd int }

var errNoEvent = errors.New("descriptor is no eventfd")

// newEvent takes fd over if it is an eventfd: nothing else can be waited for
// without the risk to be kept waiting.
func newEvent(fd int) (*event, error) {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, fmt.Errorf("look at descriptor: %w", err)
	}
	if name != "anon_inode:[eventfd]" {
		return nil, errNoEvent
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return &event{fd}, nil
}

// signal adds one to the event. One that is full is one that can be read.
func (e *event) signal() {
	if e != nil {
		one := [8]byte{1}
		_, _ = unix.Write(e.fd, one[:])
	}
}

func (e *event) close() {
	if e != nil {
		_ = unix.Close(e.fd)
	}
}

// newInflight makes the file for a record of requests in flight. It cannot get
// shorter. The descriptor is the caller's.
func newInflight(i wire.Inflight) (fd int, err error) {
	fd, err = unix.MemfdCreate("vhost-user-inflight", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	err = unix.Ftruncate(fd, int64(i.Size))
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("make inflight record: %w", err)
	}
	return fd, nil
}

// isFault reports whether a panic's value is an access to memory that is mapped and
// not there, in one of the regions or the record.
func (s *session) isFault(v any) bool {
	f, ok := v.(interface {
		error
		RuntimeError()
		Addr() uintptr
	})
	if !ok {
		return false
	}
	in := func(m *mapping) bool { return m != nil && f.Addr()-address(m.all) < uintptr(len(m.all)) }
	for _, r := range s.guest.regions {
		if in(r.mapping) {
			return true
		}
	}
	return in(s.record)
}
