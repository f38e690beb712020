// Package generation has the lives of an origin's generations: which there are,
// what may be done with each, and how an image goes from one to the next without
// ever being away.
//
// A generation is where things lie. One at a time is active, and all that is
// published goes there. A new one retires it; what is still wanted is copied
// forward; then it expires: nobody should read it any more, and whoever does
// raises an [Alarm]. What nobody read is closed (deleted), looked through a last
// time, and only then erased as a whole. There are no reference counts, so
// nothing can be counted wrongly; [List] is the one value that decides, changed
// by compare-and-swap.
//
// # Why nothing is lost
//
// Everybody who relies on a generation first says so where the collector looks
// (a publisher writes the image's name, a reader its mark, a person a pin) and
// then reads the states again. The collector first closes the generation, and
// then looks. Of two who do that at once at least one sees the other: either the
// collector sees the claim, and backs off, or the claimant sees the generation
// closed, and starts over in another. doc/architecture.md has the races one by
// one, and package gc a test that plays them.
//
//	publisher   Active ─► put all, name last ─► Settle: states again? ─► Forward
//	reader      name ─► mark ─► states again ─► read, follow ([View], [Image])
//	collector   New ─► Forward … ─► expired ─► deleted ─► scan ─► erased (package gc)
package generation
