package ext4

import "io"

// writeSize is the size in bytes from which on collected writes are passed on.
const writeSize = 1 << 20

// output collects writes that continue one another into large ones.
type output struct {
	w     io.WriterAt
	buf   []byte
	start int64 // of buf on the device
}

// writeAt writes p, which is not kept, at byte off.
func (o *output) writeAt(p []byte, off int64) error {
	if len(o.buf) > 0 && (off != o.start+int64(len(o.buf)) || len(o.buf)+len(p) > writeSize) {
		if err := o.flush(); err != nil {
			return err
		}
	}
	if len(o.buf) == 0 {
		o.start = off
	}
	o.buf = append(o.buf, p...)
	return nil
}

func (o *output) writeBlock(p []byte, block uint64) error {
	return o.writeAt(p, int64(block)*BlockSize)
}

func (o *output) flush() error {
	if len(o.buf) == 0 {
		return nil
	}
	_, err := o.w.WriteAt(o.buf, o.start)
	o.buf = o.buf[:0]
	return err
}
