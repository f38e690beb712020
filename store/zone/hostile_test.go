package zone_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/store/zone"
	"github.com/rivuletfs/rivulet/store/zone/zonetest"
)

// respond answers a read with a value, as Redis does.
func respond(w io.Writer, value []byte) (bool, error) {
	_, err := fmt.Fprintf(w, "$%d\r\n%s\r\n", len(value), value)
	return true, err
}

// say answers with what it is given.
func say(text string) zonetest.Behaviour {
	return func(w io.Writer, _ string, _ []byte) (bool, error) {
		_, err := io.WriteString(w, text)
		return true, err
	}
}

// drip sends an answer by the byte, for ever.
func drip(w io.Writer, _ string, value []byte) (bool, error) {
	_, err := fmt.Fprintf(w, "$%d\r\n", len(value))
	for err == nil {
		time.Sleep(10 * time.Millisecond)
		_, err = w.Write([]byte{1})
	}
	return true, err
}

// forge makes a stripe of other bytes, with the right checksum.
func forge(k, n int) zonetest.Behaviour {
	return func(w io.Writer, key string, value []byte) (bool, error) {
		if value == nil {
			return false, nil
		}
		return respond(w, zone.Forged(value, k, n))
	}
}

// liars are servers that do not answer as they should.
var liars = map[string]zonetest.Behaviour{
	"huge length":     say("$9223372036854775807\r\n"),
	"negative length": say("$-2\r\n"),
	"long length":     say("$1000000000\r\n" + strings.Repeat("x", 1<<16)),
	"endless line":    say(strings.Repeat("$1", 1<<20)),
	"endless value":   say("$5\r\n" + strings.Repeat("x", 1<<20)),
	"many answers":    say(strings.Repeat("$-1\r\n", 1000)),
	"array":           say("*1000000000\r\n"),
	"nothing":         func(io.Writer, string, []byte) (bool, error) { return false, io.EOF },
	"garbage": func(w io.Writer, _ string, _ []byte) (bool, error) {
		b := make([]byte, 1+rand.IntN(1<<17))
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		_, err := w.Write(b)
		return true, err
	},
	"cut": func(w io.Writer, _ string, value []byte) (bool, error) {
		_, _ = fmt.Fprintf(w, "$%d\r\n%s", len(value), value[:len(value)/2])
		return true, io.EOF
	},
	"zeros": func(w io.Writer, _ string, value []byte) (bool, error) {
		return respond(w, make([]byte, len(value)))
	},
	"error":     say("-ERR no\r\n"),
	"missing":   say("$-1\r\n"),
	"forged":    forge(4, 5),
	"slow drip": drip,
	"hung": func(w io.Writer, _ string, _ []byte) (bool, error) {
		time.Sleep(time.Second)
		return true, io.EOF
	},
}

// TestOneLiar has one of five servers lie in every way: all reads are right.
func TestOneLiar(t *testing.T) {
	for name, lie := range liars {
		t.Run(name, func(t *testing.T) {
			list, urls := servers(t, 5)
			z := open(t, zone.Config{Nodes: urls, Timeout: 2 * time.Second, MinTimeout: 2 * time.Second})
			objects, rounds := chunktest.Objects(3), 8
			if testing.Short() { // each lie is told a dozen times all the same
				objects, rounds = objects[3:6], 4
			}
			put(t, z, objects...)
			list[1].Behave(lie)
			for range rounds {
				for _, o := range objects {
					if err := read(z, &o); err != nil {
						t.Fatal(err)
					}
				}
			}
			list[1].Behave(nil)
			for _, s := range list {
				if n := len(s.Keys()); n < len(objects)-1 { // one may be just being put again
					t.Errorf("a server holds %d keys of %d", n, len(objects))
				}
			}
		})
	}
}

// TestAllLie has all servers lie: no read succeeds or hangs, and little is
// allocated.
func TestAllLie(t *testing.T) {
	o := chunktest.Random(1, chunk.Size, chunk.FrameSize)
	for name, lie := range liars {
		t.Run(name, func(t *testing.T) {
			list, urls := servers(t, 5)
			put(t, open(t, zone.Config{Nodes: urls}), o) // which may take its time
			z := open(t, zone.Config{Nodes: urls, Timeout: 200 * time.Millisecond})
			for _, s := range list {
				s.Behave(lie)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range 5 {
				if err := read(z, &o); err == nil {
					t.Error("a read succeeded")
				}
			}
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > 100<<20 { // the lies themselves are some MiB
				t.Errorf("%d MiB allocated", got>>20)
			}
		})
	}
}

// TestForged has servers forge stripes whose checksums are right, as many as parity
// can stand: the chunk is found, the forgers are found out and the stripes put
// right.
func TestForged(t *testing.T) {
	for _, c := range []struct{ k, n, liars int }{{4, 5, 1}, {2, 4, 2}, {1, 3, 2}, {3, 6, 2}} {
		t.Run(fmt.Sprintf("%d of %d", c.k, c.n), func(t *testing.T) {
			scheme := zone.Coded{K: c.k, N: c.n}
			list, urls := servers(t, c.n)
			z := open(t, zone.Config{Nodes: urls, Scheme: scheme})
			o := chunktest.Random(1, 100_000, chunk.FrameSize)
			put(t, z, o)
			good := map[string][]byte{}
			for i := range c.liars {
				key := key(scheme, &o, i)
				s := holder(t, list, key)
				good[key] = s.Value(key)
				s.SetValue(key, zone.Forged(good[key], c.k, c.n))
			}
			healed(t, z, &o, func() bool {
				for key, value := range good {
					if !bytes.Equal(holder(t, list, key).Value(key), value) {
						return false
					}
				}
				return true
			})
			if z.Stats().Forged == 0 && c.k > 1 {
				t.Error("nobody was found out")
			}
		})
	}
}

// TestForgersAreLeftOut: a node that forges all the time is not asked for long.
func TestForgersAreLeftOut(t *testing.T) {
	list, urls := servers(t, 5)
	z := open(t, zone.Config{Nodes: urls})
	o := chunktest.Random(1, 100_000, chunk.FrameSize)
	put(t, z, o)
	// The others wait until the forger has answered, so that it is never too late.
	for _, s := range list[1:] {
		s.Delay.Store(int64(3 * time.Millisecond))
	}
	list[0].Behave(forge(4, 5))
	eventually(t, "left out", func() bool {
		if err := read(z, &o); err != nil {
			t.Fatal(err)
		}
		return z.Stats().Nodes[0].Breaker.Opened > 0
	})
}

// TestAllForged has more forged stripes than parity can stand: damage, and then a
// chunk that is not there, and can be put again.
func TestAllForged(t *testing.T) {
	list, urls := servers(t, 5)
	z := open(t, zone.Config{Nodes: urls})
	o := chunktest.Random(1, 100_000, chunk.FrameSize)
	put(t, z, o)
	for i := range 2 {
		key := key(zone.DefaultScheme, &o, i)
		s := holder(t, list, key)
		s.SetValue(key, zone.Forged(s.Value(key), 4, 5))
	}
	var corrupt *chunk.CorruptError
	if err := read(z, &o); !errors.As(err, &corrupt) || errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("%v, want damage", err)
	}
	eventually(t, "removed", func() bool { return count(list, &o) == 0 })
	if err := read(z, &o); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("%v, want ErrNotFound", err)
	}
	put(t, z, o)
	if err := read(z, &o); err != nil {
		t.Error(err)
	}
}

// TestMixedUp has servers answer with stripes of other chunks and places.
func TestMixedUp(t *testing.T) {
	list, urls := servers(t, 5)
	z := open(t, zone.Config{Nodes: urls})
	a, b := chunktest.Random(1, 100_000, chunk.FrameSize), chunktest.Random(2, 100_000, chunk.FrameSize)
	put(t, z, a, b)
	for _, other := range []string{key(zone.DefaultScheme, &b, 1), key(zone.DefaultScheme, &a, 2)} {
		key := key(zone.DefaultScheme, &a, 1)
		s := holder(t, list, key)
		good := s.Value(key)
		s.SetValue(key, holder(t, list, other).Value(other))
		healed(t, z, &a, func() bool { return bytes.Equal(s.Value(key), good) })
	}
}

// TestCancelled: a read whose context ends returns at once, however slow the nodes.
func TestCancelled(t *testing.T) {
	list, urls := servers(t, 5)
	for name, scheme := range schemes {
		t.Run(name, func(t *testing.T) {
			for _, s := range list {
				s.Delay.Store(0)
			}
			z := open(t, zone.Config{Nodes: urls, Scheme: scheme})
			o := chunktest.Random(1, 100_000, chunk.FrameSize)
			put(t, z, o)
			for _, s := range list {
				s.Delay.Store(int64(time.Second))
			}
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
			defer cancel()
			if n, err := z.Fetch(ctx, o.ID, make([]byte, 100), 0); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%d, %v", n, err)
			}
			if err := z.Close(); err != nil { // does not wait for answers
				t.Error(err)
			}
		})
	}
}
