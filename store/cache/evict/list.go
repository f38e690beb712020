package evict

import "github.com/rivuletfs/rivulet/chunk"

// An item is what all nodes have; N is the kind of node.
type item[N any] struct {
	id         chunk.ID
	size       int64
	prev, next *N
}

func (i *item[N]) base() *item[N] { return i }

// An itemOf is a pointer to a node that begins with an item.
type itemOf[N any] interface {
	*N
	base() *item[N]
}

// A list is a queue of nodes that any of them can leave. Its zero value is
// empty.
type list[N any, P itemOf[N]] struct {
	first, last *N
	len         int
	bytes       int64
}

func (l *list[N, P]) pushBack(n *N) {
	i := P(n).base()
	i.prev, i.next = l.last, nil
	if l.last != nil {
		P(l.last).base().next = n
	} else {
		l.first = n
	}
	l.last = n
	l.len++
	l.bytes += i.size
}

func (l *list[N, P]) remove(n *N) {
	i := P(n).base()
	if i.prev != nil {
		P(i.prev).base().next = i.next
	} else {
		l.first = i.next
	}
	if i.next != nil {
		P(i.next).base().prev = i.prev
	} else {
		l.last = i.prev
	}
	i.prev, i.next = nil, nil
	l.len--
	l.bytes -= i.size
}

// A node is one chunk of a policy that keeps little of it.
type node struct {
	item[node]
	queue queue
	refs  uint8
}

func newNode(id chunk.ID, size int64) *node { return &node{item: item[node]{id: id, size: size}} }

// A queue says which of a policy's lists a node is in.
type queue uint8

type nodes = list[node, *node]

// An ordered is what LRU and SIEVE have in common: all chunks in one list, and
// no history.
type ordered struct {
	held  map[chunk.ID]*node
	order nodes // in LRU first the one used longest ago, in SIEVE the one that came first
}

func newOrdered() ordered { return ordered{held: make(map[chunk.ID]*node)} }

// add puts a new chunk last.
func (o *ordered) add(id chunk.ID, size int64) *node {
	n := newNode(id, size)
	o.held[id] = n
	o.order.pushBack(n)
	return n
}

// Remove implements [Policy].
func (o *ordered) Remove(id chunk.ID, _ bool) {
	if n := o.held[id]; n != nil {
		o.order.remove(n)
		delete(o.held, id)
	}
}

// Len implements [Policy].
func (o *ordered) Len() int { return o.order.len }

// Bytes implements [Policy].
func (o *ordered) Bytes() int64 { return o.order.bytes }

// History implements [Policy].
func (o *ordered) History() int { return 0 }
