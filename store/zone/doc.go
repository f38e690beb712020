// Package zone is the client of a cache that the hosts of a zone share: of servers
// that people operate anyway, Redis, Valkey or memcached, which know nothing of
// each other.
//
// # Where things lie
//
// A chunk's stored object is cut into n stripes of which any k rebuild it
// (Reed-Solomon; one parity is XOR). Each stripe lies on a node of its own, by
// rendezvous hashing; doc/format/zone.md has keys, bytes and places. All clients
// compute the same places, so there is no directory, and no node is asked where
// something lies.
//
// # Reading
//
// All n stripes are asked for at once, and the first k answers make the chunk. So
// a node that is slow, dead or empty is not felt as long as k others answer: no
// read waits for it, and none repeats anything. Requests that have not been sent
// by then are not sent; answers that are on their way are read to their end, off
// everybody's path, since a connection that is cut costs more.
//
//	ReadChunk ─► ask ─┬─► node: gate ─► turn ─► breaker ─► connection ─► answer ─┐
//	                  ├─► …                                                      ├─► collect ─► door ─► dst
//	                  └─► …                                                      ┘      │   (Offer: ─► its taker's door)
//	                                              late answers ─► note what is lost ────┴─► queue ─► repair
//
// # Whom to trust
//
// Nobody. A stripe has a checksum, which finds what broke by itself, and names its
// chunk and place, which finds what was mixed up. What a node forges on purpose is
// found by the door: the rebuilt chunk must be what its ID says, else other sets
// of stripes are tried, and what does not fit the chunk that was found so is
// forged. Lengths are bounded before anything is allocated, time by one deadline a
// request, and the work that forgeries make by a breaker.
//
// # Filling
//
// Nodes do not fetch for anybody. Whoever has read a chunk from the origin puts it
// ([Zone.Fill]), in the background, within bounds, and not at all when they are
// reached; the next reader does it then. Stripes that a read has missed are put
// again by it.
//
// # Who owns what
//
// A node's connections and counters are its own; a request has a connection for
// itself. An assembly belongs to the goroutine that collects, but for its channel,
// which has room for all answers, and the flag that says nobody collects any more.
// Goroutines are those of requests (bounded by turns and deadlines) and the
// workers of the queue; Close ends both and waits.
package zone
