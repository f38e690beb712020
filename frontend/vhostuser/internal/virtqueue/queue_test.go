package virtqueue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
)

const (
	testSize  = 16
	testPage  = 4096
	testUser  = 0x7000_0000
	testGuest = 0x10_0000
)

// A bench is a queue and its driver in one memory: two regions whose guest
// addresses meet, and a third elsewhere.
//
//	region 0: descriptors at 0, available ring at 512, used ring at 1024, an
//	indirect table's room from 2048 on
type testBench struct {
	data   [3][]byte
	mem    *Memory
	q      *Queue
	d      *Driver
	config Config
}

// shared returns memory as a front end shares it: not Go's, so that the race detector
// has nothing to say of another end that changes it at will.
func shared(t testing.TB, n uint64) []byte {
	t.Helper()
	b, err := syscall.Mmap(-1, 0, int(n), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(b) })
	return b
}

func newBench(t testing.TB, events bool, inflight []byte) *testBench {
	t.Helper()
	b := &testBench{}
	for i := range b.data {
		b.data[i] = shared(t, testPage)
	}
	var err error
	b.mem, err = NewMemory([]Region{
		{Guest: testGuest + testPage, User: testUser + 5*testPage, Data: b.data[1]},
		{Guest: testGuest, User: testUser, Data: b.data[0]},
		{Guest: 0, User: testUser + 9*testPage, Data: b.data[2]},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.config = Config{
		Size: testSize, Desc: testUser, Avail: testUser + 512, Used: testUser + 1024,
		Indirect: true, EventIndex: events, Inflight: inflight,
	}
	b.open(t)
	b.d, err = NewDriver(b.data[0][:256], b.data[0][512:1024], b.data[0][1024:2048], testSize, events)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *testBench) open(t testing.TB) {
	t.Helper()
	var err error
	if b.q, err = New(b.mem, b.config); err != nil {
		t.Fatal(err)
	}
}

func (b *testBench) next(t testing.TB, c *Chain) bool {
	t.Helper()
	ok, err := b.q.Next(c)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

// TestRounds goes several times around the ring, and past the end of the indexes.
func TestRounds(t *testing.T) {
	for _, events := range []bool{false, true} {
		b := newBench(t, events, nil)
		b.data[0][1024+2], b.data[0][1024+3] = 0xf0, 0xff // the used index
		b.data[0][512+2], b.data[0][512+3] = 0xf0, 0xff
		b.config.Next = 0xfff0
		b.open(t)
		d, err := NewDriver(b.data[0][:256], b.data[0][512:1024], b.data[0][1024:2048], testSize, events)
		if err != nil {
			t.Fatal(err)
		}
		var c Chain
		for i := range 100 {
			n := 1 + i%testSize
			for k := range n {
				d.Set(k, testGuest+testPage, uint32(k+1), FlagWrite, 0)
				d.Offer(uint16(k))
			}
			if b.q.Arm() {
				t.Fatal("something is there before it was published")
			}
			if !d.Publish() {
				t.Fatal("an armed queue is not kicked")
			}
			b.q.Quiet()
			for k := range n {
				if !b.next(t, &c) || int(c.Head) != k || len(c.In) != 1 || len(c.In[0]) != k+1 {
					t.Fatalf("round %d: chain %d: %+v", i, k, c)
				}
			}
			if b.next(t, &c) {
				t.Fatal("one too many")
			}
			if d.Arm() {
				t.Fatal("used before it was published")
			}
			for k := range n {
				b.q.Complete(uint16(n-1-k), uint32(k))
			}
			if !b.q.Publish() || b.q.Publish() {
				t.Fatal("an armed driver is not signalled, or twice")
			}
			d.Quiet()
			for k := range n {
				head, got, ok := d.Used()
				if !ok || int(head) != n-1-k || int(got) != k {
					t.Fatalf("used %d, %d, %v", head, got, ok)
				}
			}
			if _, _, ok := d.Used(); ok {
				t.Fatal("one too many is used")
			}
		}
	}
}

// TestQuiet has neither end woken while it is at work.
func TestQuiet(t *testing.T) {
	for _, events := range []bool{false, true} {
		b := newBench(t, events, nil)
		var c Chain
		b.q.Arm()
		b.d.Arm()
		kicks, signals := 0, 0
		for i := range 10 {
			b.d.Set(i, testGuest, 1, 0, 0)
			b.d.Offer(uint16(i))
			if b.d.Publish() {
				kicks++
				b.q.Quiet()
			}
			b.next(t, &c)
			b.q.Complete(c.Head, 0)
			if b.q.Publish() {
				signals++
				b.d.Quiet()
			}
		}
		if kicks != 1 || signals != 1 {
			t.Errorf("events %v: %d kicks, %d signals", events, kicks, signals)
		}
	}
}

func TestBroken(t *testing.T) {
	const indirect = testGuest + 2048
	for _, c := range []struct {
		name string
		set  func(b *testBench)
	}{
		{"loop", func(b *testBench) {
			b.d.Set(0, testGuest, 1, FlagNext, 1)
			b.d.Set(1, testGuest, 1, FlagNext, 0)
		}},
		{"next outside", func(b *testBench) { b.d.Set(0, testGuest, 1, FlagNext, testSize) }},
		{"no memory", func(b *testBench) { b.d.Set(0, 3<<30, 1, 0, 0) }},
		{"over the end", func(b *testBench) { b.d.Set(0, testPage-1, 2, 0, 0) }},
		{"over all ends", func(b *testBench) { b.d.Set(0, 1<<64-1, 2, 0, 0) }},
		{"empty", func(b *testBench) { b.d.Set(0, testGuest, 0, 0, 0) }},
		{"read after write", func(b *testBench) {
			b.d.Set(0, testGuest, 1, FlagNext|FlagWrite, 1)
			b.d.Set(1, testGuest, 1, 0, 0)
		}},
		{"indirect and next", func(b *testBench) { b.d.Set(0, indirect, 16, FlagIndirect|FlagNext, 1) }},
		{"indirect of no length", func(b *testBench) { b.d.Set(0, indirect, 0, FlagIndirect, 0) }},
		{"indirect of half a descriptor", func(b *testBench) { b.d.Set(0, indirect, 24, FlagIndirect, 0) }},
		{"indirect too long", func(b *testBench) { b.d.Set(0, indirect, 16*(MaxSize+1), FlagIndirect, 0) }},
		{"indirect outside", func(b *testBench) { b.d.Set(0, testPage-16, 32, FlagIndirect, 0) }},
		{"indirect in indirect", func(b *testBench) {
			b.d.Set(0, indirect, 16, FlagIndirect, 0)
			PutDescriptor(b.data[0][2048:], 0, indirect, 16, FlagIndirect, 0)
		}},
		{"loop in indirect", func(b *testBench) {
			b.d.Set(0, indirect, 16, FlagIndirect, 0)
			PutDescriptor(b.data[0][2048:], 0, testGuest, 1, FlagNext, 0)
		}},
	} {
		b := newBench(t, true, nil)
		c.set(b)
		b.d.Offer(0)
		b.d.Publish()
		if _, err := b.q.Next(new(Chain)); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	b := newBench(t, false, nil)
	b.d.Set(3, testGuest, 1, 0, 0)
	b.d.Offer(3)
	b.d.Offer(3)
	b.d.Publish()
	b.next(t, new(Chain))
	if _, err := b.q.Next(new(Chain)); !errors.Is(err, ErrBroken) {
		t.Errorf("the same head twice: %v", err)
	}
	b = newBench(t, false, nil)
	b.d.next = testSize + 1
	b.d.Publish()
	if _, err := b.q.Next(new(Chain)); !errors.Is(err, ErrBroken) {
		t.Errorf("index too far: %v", err)
	}
	b = newBench(t, false, nil)
	b.d.Offer(testSize)
	b.d.Publish()
	if _, err := b.q.Next(new(Chain)); !errors.Is(err, ErrBroken) {
		t.Errorf("head outside: %v", err)
	}
}

func TestConfig(t *testing.T) {
	b := newBench(t, true, nil)
	for name, change := range map[string]func(*Config){
		"no descriptors": func(c *Config) { c.Size = 0 },
		"odd size":       func(c *Config) { c.Size = 12 },
		"large size":     func(c *Config) { c.Size = 2 * MaxSize },
		"alignment":      func(c *Config) { c.Used++ },
		"no memory":      func(c *Config) { c.Avail = 12 },
		"over the end":   func(c *Config) { c.Desc = testUser + testPage - 16 },
		"short record":   func(c *Config) { c.Inflight = make([]byte, 64) },
	} {
		c := b.config
		change(&c)
		if _, err := New(b.mem, c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	page := make([]byte, testPage)
	for name, regions := range map[string][]Region{
		"empty":              {{Guest: 0, User: 0}},
		"overlap":            {{Guest: 0, User: 0, Data: page}, {Guest: 100, User: testPage, Data: page}},
		"user overlap":       {{Guest: 0, User: 0, Data: page}, {Guest: testPage, User: 100, Data: page}},
		"beyond the address": {{Guest: 1<<64 - 100, User: 0, Data: page}},
	} {
		if _, err := NewMemory(regions); err == nil {
			t.Errorf("memory with regions that are %s: no error", name)
		}
	}
}

// model is the walk once more, by the words of the specification: the guest
// addresses of each byte to read and to write, or false.
func model(mem []Region, read func(addr, n uint64) []byte, desc []byte, size int, head uint16, indirectAllowed bool) (out, in []uint64, ok bool) {
	table, count, inside := desc, size, false
	seen := map[int]bool{}
	for i := int(head); ; {
		if i >= count || seen[i] {
			return nil, nil, false
		}
		seen[i] = true
		d := table[16*i:]
		addr, n := binary.LittleEndian.Uint64(d), uint64(binary.LittleEndian.Uint32(d[8:]))
		flags, next := binary.LittleEndian.Uint16(d[12:]), binary.LittleEndian.Uint16(d[14:])
		if flags&4 != 0 {
			if inside || !indirectAllowed || flags&1 != 0 || n == 0 || n%16 != 0 || n > 16*MaxSize {
				return nil, nil, false
			}
			if table = read(addr, n); uint64(len(table)) != n {
				return nil, nil, false
			}
			count, inside, i, seen = int(n/16), true, 0, map[int]bool{}
			continue
		}
		if n == 0 || n > 4*testPage || flags&2 == 0 && len(in) > 0 {
			return nil, nil, false
		}
		for k := range n {
			if !slices.ContainsFunc(mem, func(r Region) bool { return addr+k-r.Guest < uint64(len(r.Data)) }) || addr+k < addr {
				return nil, nil, false
			}
			if flags&2 != 0 {
				in = append(in, addr+k)
			} else {
				out = append(out, addr+k)
			}
		}
		if flags&1 == 0 {
			return out, in, true
		}
		i = int(next)
	}
}

// FuzzChain compares chains of any bytes with the model.
func FuzzChain(f *testing.F) {
	entry := func(addr uint64, n uint32, flags, next uint16) []byte {
		b := make([]byte, 16)
		PutDescriptor(b, 0, addr, n, flags, next)
		return b
	}
	f.Add(uint16(0), slices.Concat(entry(testGuest, 16, 1, 1), entry(testGuest+4000, 300, 3, 2), entry(7, 1, 2, 0)), []byte{})
	f.Add(uint16(0), entry(testGuest+2048, 32, 4, 0), slices.Concat(entry(9, 9, 1, 1), entry(testGuest, 8192, 2, 0)))
	f.Add(uint16(1), slices.Concat(entry(0, 1, 1, 1), entry(0, 1, 1, 0)), []byte{})
	f.Fuzz(func(t *testing.T, head uint16, desc, indirect []byte) {
		b := newBench(t, true, nil)
		copy(b.data[0][:256], desc)
		copy(b.data[0][2048:], indirect)
		b.d.Offer(head)
		b.d.Publish()
		var want [2][]uint64
		var ok bool
		if head < testSize {
			want[0], want[1], ok = model(b.mem.regions, func(addr, n uint64) []byte { return b.mem.Guest(addr, n) }, b.data[0][:256], testSize, head, true)
		}
		var c Chain
		got, err := b.q.Next(&c)
		if got != ok || (err == nil) != ok {
			t.Fatalf("taken %v, %v; the model says %v", got, err, ok)
		}
		for k, list := range [][][]byte{c.Out, c.In} {
			if !ok {
				break
			}
			n := 0
			for _, part := range list {
				for i := range part {
					if &part[i] != &b.mem.Guest(want[k][n], 1)[0] {
						t.Fatalf("byte %d of list %d is not that of the model", n, k)
					}
					n++
				}
			}
			if n != len(want[k]) {
				t.Fatalf("%d bytes in list %d, the model has %d", n, k, len(want[k]))
			}
		}
	})
}

// FuzzChanging has a driver that writes anything anywhere while the device works.
// What the device is given stays within the memory, and it comes to an end.
func FuzzChanging(f *testing.F) {
	f.Add(uint64(1), []byte{0, 1, 2, 3})
	f.Add(uint64(7), bytes.Repeat([]byte{255, 0, 16, 1}, 40))
	f.Fuzz(func(t *testing.T, seed uint64, script []byte) {
		b := newBench(t, seed%2 == 0, shared(t, InflightBytes(testSize)))
		r := rand.New(rand.NewPCG(seed, 1))
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			hostile := rand.New(rand.NewPCG(seed, 2))
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				var at, v int
				if len(script) > 1 {
					at, v = int(script[i%len(script)])*8, int(script[(i+1)%len(script)])
				}
				switch hostile.IntN(4) {
				case 0:
					b.d.Set(hostile.IntN(testSize), testGuest+uint64(hostile.IntN(2*testPage)), uint32(hostile.IntN(200)), uint16(hostile.IntN(8)), uint16(hostile.IntN(testSize+1)))
				case 1:
					store16(b.data[0], at%testPage, uint16(v<<8|at))
				case 2:
					b.d.Offer(uint16(hostile.IntN(testSize)))
					b.d.Publish()
				default:
					store16(b.config.Inflight, at%len(b.config.Inflight), uint16(v))
				}
			}
		})
		var c Chain
		for range 200 {
			ok, err := b.q.Next(&c)
			if err != nil {
				if !errors.Is(err, ErrBroken) {
					t.Error(err)
				}
				b.config.Next = uint16(r.Uint32())
				if q, err := New(b.mem, b.config); err == nil { // the record may be spoilt
					b.q = q
				} else {
					clear(b.config.Inflight)
				}
				continue
			}
			if !ok {
				b.q.Arm()
				continue
			}
			total := 0
			for _, part := range append(c.Out, c.In...) {
				total += len(part)
				if !slices.ContainsFunc(b.data[:], func(d []byte) bool { return within(part, d) }) {
					t.Error("a part outside of the memory")
				}
			}
			b.q.Complete(c.Head, uint32(total))
			b.q.Publish()
		}
		close(stop)
		wg.Wait()
	})
}

func within(part, all []byte) bool {
	for i := range all {
		if &all[i] == &part[0] {
			return len(part) <= len(all)-i
		}
	}
	return false
}

func BenchmarkQueue(b *testing.B) {
	q := newBench(b, true, shared(b, InflightBytes(testSize)))
	for i := 0; i < testSize; i++ {
		q.d.Set(i, testGuest, 16, FlagWrite, 0)
	}
	var c Chain
	b.ReportAllocs()
	for i := range b.N {
		q.d.Offer(uint16(i % testSize))
		q.d.Publish()
		if ok, err := q.q.Next(&c); !ok || err != nil {
			b.Fatal(ok, err)
		}
		q.q.Complete(c.Head, 1)
		q.q.Publish()
		q.d.Used()
	}
}
