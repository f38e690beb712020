package source

import (
	"context"
	"io"
)

// A Keeper keeps bytes, as a file does.
type Keeper interface {
	io.ReaderAt
	io.WriterAt
	// Truncate gives back the room of all behind size bytes.
	Truncate(size int64) error
}

// Keep has a layer of a registry written to k as it is stored, when it is read whole for the first
// time: later readings take it from there, and check it as ever. Other layers are near, and left as
// they are. What is not the whole layer takes no room. k lasts as long as the layer is read.
func (l *Layer) Keep(k Keeper) {
	if !l.remote {
		return
	}
	ask, whole := l.open, false
	l.open = func(ctx context.Context) (io.ReadCloser, error) {
		if whole {
			return io.NopCloser(io.NewSectionReader(k, 0, l.Size)), nil
		}
		body, err := ask(ctx)
		if err != nil {
			return nil, err
		}
		return &keeping{ReadCloser: body, to: k, size: l.Size, whole: &whole}, nil
	}
}

// keeping is a reading of which a copy is made.
type keeping struct {
	io.ReadCloser
	to    Keeper
	at    int64
	size  int64
	lost  bool  // there is no room for a copy, say
	whole *bool // the copy is all of it
}

func (k *keeping) Read(p []byte) (int, error) {
	n, err := k.ReadCloser.Read(p)
	if n > 0 && !k.lost {
		if _, err := k.to.WriteAt(p[:n], k.at); err != nil {
			k.lost = true
			_ = k.to.Truncate(0)
		}
	}
	k.at += int64(n)
	*k.whole = !k.lost && k.at == k.size
	return n, err
}

func (k *keeping) Close() error {
	if !*k.whole {
		_ = k.to.Truncate(0)
	}
	return k.ReadCloser.Close()
}
