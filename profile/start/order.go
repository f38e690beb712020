package start

// An order is which chunks of a disk a Fill reads next: those behind where the disk is
// read, round and round. Files that are read one after the other lie near one another, so
// a reader of all of them finds what comes next, and the Fill does not bring first what
// is read last.
type order struct {
	// next has of each position itself while it is to be read, else one behind it from
	// which to look on; the last one stands for the end.
	next []int32
	from int
	left int
}

func newOrder(n int, todo []int) *order {
	o := &order{next: make([]int32, n+1), left: len(todo)}
	for i := range o.next {
		o.next[i] = int32(min(i+1, n))
	}
	for _, pos := range todo {
		o.next[pos] = int32(pos)
	}
	return o
}

// has reports whether the chunk at pos is to be read.
func (o *order) has(pos int) bool { return int(o.next[pos]) == pos }

// find returns the first position at or behind pos that is to be read, and shortens the way
// to it for who comes next.
func (o *order) find(pos int) int {
	for int(o.next[pos]) != pos {
		o.next[pos] = o.next[o.next[pos]]
		pos = int(o.next[pos])
	}
	return pos
}

// peek returns the next position to read; ok is false if there is none left.
func (o *order) peek() (pos int, ok bool) {
	if o.left == 0 {
		return 0, false
	}
	if pos = o.find(o.from); pos == len(o.next)-1 {
		pos = o.find(0)
	}
	return pos, true
}

// take takes away what peek returns.
func (o *order) take() {
	if pos, ok := o.peek(); ok {
		o.next[pos] = int32(pos + 1)
		o.from = pos + 1
		o.left--
	}
}
