package virtqueue

// maxSegments bounds the parts of a chain that are not contiguous in mapped memory.
// A descriptor that lies in several regions is as many.
const maxSegments = 2 * MaxSize

// A Chain is a request's memory: parts that the device reads, then parts that it
// writes. It is used again for the next one, so that taking one allocates nothing
// in the long run. The bytes may change at any time.
type Chain struct {
	Head    uint16
	Out, In [][]byte // the device reads Out and writes In; none is empty

	end      uint64 // guest address behind the last part
	endWrite bool   // which is in In
}

// walk follows the chain from head.
func (q *Queue) walk(head uint16, c *Chain) error {
	c.Head, c.Out, c.In, c.end = head, c.Out[:0], c.In[:0], 0
	table, entries, indirect := q.desc, q.size, false
	i := uint32(head)
	for steps := uint32(0); ; steps++ {
		if steps == entries {
			return broken("chain from descriptor %d is longer than its table, of %d", head, entries)
		}
		if i >= entries {
			return broken("chain from descriptor %d: next is %d, of %d", head, i, entries)
		}
		d := loadDescriptor(table, i)
		if d.flags&FlagIndirect != 0 {
			if indirect || !q.indirect || d.flags&FlagNext != 0 {
				return broken("chain from descriptor %d: an indirect table where none may be", head)
			}
			if d.len == 0 || d.len%DescriptorSize != 0 || d.len > MaxSize*DescriptorSize {
				return broken("chain from descriptor %d: indirect table of %d bytes", head, d.len)
			}
			table = q.mem.Guest(d.addr, uint64(d.len))
			if len(table) != int(d.len) {
				return broken("chain from descriptor %d: indirect table of %d bytes at %#x is not in guest memory", head, d.len, d.addr)
			}
			entries, indirect = d.len/DescriptorSize, true
			i, steps = 0, ^uint32(0)
			continue
		}
		if err := q.add(c, d); err != nil {
			return err
		}
		if d.flags&FlagNext == 0 {
			return nil
		}
		i = uint32(d.next)
	}
}

// add adds the memory of one descriptor.
func (q *Queue) add(c *Chain, d descriptor) error {
	write := d.flags&FlagWrite != 0
	if !write && len(c.In) > 0 {
		return broken("chain from descriptor %d: a part to read after one to write", c.Head)
	}
	left := uint64(d.len)
	if left == 0 || d.addr+left < d.addr {
		return broken("chain from descriptor %d: %d bytes at %#x", c.Head, d.len, d.addr)
	}
	list := &c.Out
	if write {
		list = &c.In
	}
	for addr := d.addr; left > 0; {
		b := q.mem.Guest(addr, left)
		if b == nil {
			return broken("chain from descriptor %d: %d bytes at %#x are not in guest memory", c.Head, d.len, d.addr)
		}
		if k := len(*list) - 1; k >= 0 && c.end == addr && c.endWrite == write && cap((*list)[k])-len((*list)[k]) >= len(b) {
			(*list)[k] = (*list)[k][:len((*list)[k])+len(b)]
		} else if len(c.Out)+len(c.In) == maxSegments {
			return broken("chain from descriptor %d: more than %d parts", c.Head, maxSegments)
		} else {
			*list = append(*list, b)
		}
		addr += uint64(len(b))
		left -= uint64(len(b))
		c.end, c.endWrite = addr, write
	}
	return nil
}
