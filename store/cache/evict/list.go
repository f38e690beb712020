package evict

import "github.com/rivuletfs/rivulet/chunk"

// A node is one chunk in a list.
type node struct {
	id         chunk.ID
	size       int64
	prev, next *node
	refs       uint8
	queue      uint8
}

// A list is a queue of nodes that any of them can leave. Its zero value is
// empty.
type list struct {
	first, last *node
	len         int
	bytes       int64
}

func (l *list) pushBack(n *node) {
	n.prev, n.next = l.last, nil
	if l.last != nil {
		l.last.next = n
	} else {
		l.first = n
	}
	l.last = n
	l.len++
	l.bytes += n.size
}

func (l *list) remove(n *node) {
	if n.prev != nil {
		n.prev.next = n.next
	} else {
		l.first = n.next
	}
	if n.next != nil {
		n.next.prev = n.prev
	} else {
		l.last = n.prev
	}
	n.prev, n.next = nil, nil
	l.len--
	l.bytes -= n.size
}
