package source

import "io"

const (
	aheadBlock  = 1 << 20 // bytes handed over at once
	aheadBlocks = 4       // blocks on the way
)

// An aheadReader reads from another reader in a goroutine of its own, up to
// aheadBlocks blocks ahead.
//
// Blocks go round: the goroutine takes an empty one from free, fills it, and
// sends it to full; Read empties it and gives it back. The goroutine ends, and
// closes full, at the first error of its reader or when quit is closed; err is
// set before that. Read and stop belong to one goroutine.
type aheadReader struct {
	free, full chan []byte
	quit       chan struct{}
	err        error

	block []byte // what Read gives back
	rest  []byte // the part of it that is still to be read
}

func startAhead(from io.Reader) *aheadReader {
	a := &aheadReader{
		free: make(chan []byte, aheadBlocks),
		full: make(chan []byte, aheadBlocks),
		quit: make(chan struct{}),
	}
	for range aheadBlocks {
		a.free <- make([]byte, aheadBlock)
	}
	go a.fill(from)
	return a
}

func (a *aheadReader) fill(from io.Reader) {
	defer close(a.full)
	for {
		var block []byte
		select {
		case block = <-a.free:
		case <-a.quit:
			return
		}
		n, err := fillBlock(from, block[:aheadBlock])
		if n > 0 {
			a.full <- block[:n] // never blocks: there are as many places as blocks
		}
		if err != nil {
			a.err = err
			return
		}
		select {
		case <-a.quit:
			return
		default:
		}
	}
}

// fillBlock reads until block is full or the reader has an error, and returns
// that as it is.
func fillBlock(from io.Reader, block []byte) (n int, err error) {
	for n < len(block) && err == nil {
		var got int
		got, err = from.Read(block[n:])
		n += got
	}
	return n, err
}

func (a *aheadReader) Read(p []byte) (int, error) {
	if len(a.rest) == 0 {
		if a.block != nil {
			a.free <- a.block
			a.block = nil
		}
		block, ok := <-a.full
		if !ok {
			return 0, a.err
		}
		a.block, a.rest = block, block
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// stop ends the goroutine and returns when it is gone, which is after the read
// that it is in.
func (a *aheadReader) stop() {
	close(a.quit)
	for range a.full {
	}
}
