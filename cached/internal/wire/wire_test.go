package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/internal/openfiles"
)

var id = chunk.ID{1, 2, 3, 31: 4}

// payloads are one payload of each kind, and how it is read back.
var payloads = []struct {
	kind  Type
	value any
	b     []byte
	parse func(b []byte) (any, error)
}{
	{Hello, Greeting{7}, Greeting{7}.Append(nil), func(b []byte) (any, error) { return ParseGreeting(b) }},
	{Welcome, Terms{1, 2, 3}, Terms{1, 2, 3}.Append(nil), func(b []byte) (any, error) { return ParseTerms(b) }},
	{Get, want, want.Append(nil), func(b []byte) (any, error) { return ParseWant(b) }},
	{Hit, Held{Size: 9, Checked: 9}, Held{Size: 9, Checked: 9}.Append(nil), func(b []byte) (any, error) { return ParseHeld(b) }},
	{Hit, Held{Size: 9, Checked: 9, Extract: 5}, Held{Size: 9, Checked: 9, Extract: 5}.Append(nil), func(b []byte) (any, error) { return ParseHeld(b) }},
	{Part, got, got.Append(nil), func(b []byte) (any, error) { return ParseHeld(b) }},
	{Self, Daemon{7, 1 << 40, ""}, Daemon{7, 1 << 40, ""}.Append(nil), func(b []byte) (any, error) { return ParseDaemon(b) }},
	{Lease, Right{1 << 40, 5}, Right{1 << 40, 5}.Append(nil), func(b []byte) (any, error) { return ParseRight(b) }},
	{Renew, uint64(77), AppendNumber(nil, 77), func(b []byte) (any, error) { return ParseNumber(b) }},
	{Fetch, errand, must(errand.Append(nil)), func(b []byte) (any, error) { return ParseErrand(b) }},
	{Deposit, piece, piece.Append(nil), func(b []byte) (any, error) { return ParsePiece(b) }},
	{Miss, Refusal{NoRoom, "why"}, Refusal{NoRoom, "why"}.Append(nil), func(b []byte) (any, error) { return ParseRefusal(b) }},
	{Raise, Urgent{id, chunk.Prefetch}, Urgent{id, chunk.Prefetch}.Append(nil), func(b []byte) (any, error) { return ParseUrgent(b) }},
	{Pin, id, AppendIDs(nil, id), func(b []byte) (any, error) { return ParseID(b) }},
	{Touch, []chunk.ID{id, {}}, AppendIDs(nil, id, chunk.ID{}), func(b []byte) (any, error) { return ParseIDs(b) }},
	{Statistics, []uint64{1, 1 << 63}, AppendNumbers(nil, 1, 1<<63), func(b []byte) (any, error) { return ParseNumbers(b) }},
	{Listed, entries, AppendEntries(nil, entries), func(b []byte) (any, error) { return ParseEntries(b) }},
}

var (
	want    = Want{ID: id, Off: 5, Len: 6, Priority: chunk.Fill, WaitMillis: 8000, Extract: 1<<63 | 5}
	got     = Held{Size: 9, Checked: 8, Steps: []Step{{Tier: chunk.Zone, Ago: 1 << 31, Took: 5}, {Tier: chunk.Origin, End: Had, Bytes: 8, Ago: 1<<32 - 1, Took: 1<<32 - 1}}}
	errand  = Errand{Lease: 3, Offset: 1 << 40, Length: 12, URL: "https://host/path?signed", Fields: []Field{{"Authorization", "Bearer x"}, {"A", ""}}}
	piece   = Piece{Lease: 4, Size: 100, Off: 90, Data: []byte("0123456789")}
	entries = []Entry{{id, 5, true}, {chunk.ID{}, 1, false}}
)

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// TestPayloads encodes and decodes, and refuses what is cut, longer, or of
// another size.
func TestPayloads(t *testing.T) {
	for _, p := range payloads {
		got, err := p.parse(p.b)
		if err != nil || !reflect.DeepEqual(got, p.value) {
			t.Errorf("%v: %+v, %v; want %+v", p.kind, got, err, p.value)
		}
		for n := range len(p.b) {
			got, err := p.parse(p.b[:n])
			if err == nil && p.kind != Miss && p.kind != Deposit && n%8 != 0 && n%entryLen != 0 {
				t.Errorf("%v cut at %d: %+v", p.kind, n, got)
			}
			if err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("%v cut at %d: untyped error %v", p.kind, n, err)
			}
		}
		if len(p.b) > kinds[p.kind].most {
			t.Errorf("%v has %d bytes, at most %d are allowed", p.kind, len(p.b), kinds[p.kind].most)
		}
	}
}

func TestPayloadLimits(t *testing.T) {
	long := strings.Repeat("x", MaxField)
	for name, e := range map[string]Errand{
		"address": {URL: strings.Repeat("x", MaxURL+1)},
		"fields":  {Fields: make([]Field, MaxFields+1)},
		"field":   {Fields: []Field{{"x", long}}},
		"all":     {Fields: []Field{{"", long}, {"", long}, {"", long}, {"", long}, {"", long}}},
		"offset":  {Offset: 1 << 63},
	} {
		if b, err := e.Append([]byte("kept")); !errors.Is(err, ErrMalformed) || string(b) != "kept" {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	for name, b := range map[string][]byte{
		"GET past any object":   (&Want{Off: chunk.MaxStoredSize + 1}).Append(nil),
		"GET of too much":       (&Want{Len: chunk.MaxStoredSize + 1}).Append(nil),
		"GET of no priority":    (&Want{Priority: chunk.Priorities}).Append(nil),
		"HIT of nothing":        Held{Size: 0, Checked: 0}.Append(nil),
		"HIT of too much":       Held{Size: chunk.MaxStoredSize + 1, Checked: 1}.Append(nil),
		"HIT from memory":       Held{Size: 5, Checked: 5, Steps: []Step{{Tier: chunk.Memory}}}.Append(nil),
		"HIT out of the future": Held{Size: 5, Checked: 5, Steps: []Step{{Tier: chunk.Zone, Ago: 1, Took: 2}}}.Append(nil),
		"HIT with no such end":  append(Held{Size: 5, Checked: 5}.Append(nil), 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
		"HIT with more bytes":   Held{Size: 5, Checked: 5, Steps: []Step{{Tier: chunk.Zone, Bytes: chunk.MaxStoredSize + 1}}}.Append(nil),
		"PART of some frames":   Held{Size: 6, Checked: 5, Extract: 1}.Append(nil),
		"PART of more than all": Held{Size: 5, Checked: 6}.Append(nil),
		"DEPOSIT past its end":  (&Piece{Size: 5, Off: 4, Data: []byte("12")}).Append(nil),
		"DEPOSIT of nothing":    (&Piece{Size: 5}).Append(nil),
		"entry with flags":      append(AppendEntries(nil, entries[:1])[:entryLen-1], 2),
	} {
		for _, p := range payloads {
			if word, _, _ := strings.Cut(name, " "); word != p.kind.String() && (word != "entry" || p.kind != Listed) && (word != "PART" || p.kind != Hit) {
				continue
			}
			if v, err := p.parse(b); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: %+v, %v", name, v, err)
			}
		}
	}
	if h, err := ParseHeld(Held{Size: 1, Steps: make([]Step, 3*MaxSteps)}.Append(nil)); err == nil || len(h.Steps) != 0 {
		t.Errorf("steps of no tier: %+v, %v", h, err)
	}
	if b := (Held{Size: 1, Steps: make([]Step, 3*MaxSteps)}).Append(nil); len(b) != heldLen+MaxSteps*stepLen {
		t.Errorf("many steps take %d bytes", len(b))
	}
	if d, err := ParseDaemon(Daemon{Version: strings.Repeat("x", 2*MaxVersion)}.Append(nil)); err != nil || len(d.Version) != MaxVersion {
		t.Errorf("a long version: %d bytes, %v", len(d.Version), err)
	}
	if r, err := ParseRefusal(Refusal{Busy, strings.Repeat("x", 2*MaxText)}.Append(nil)); err != nil || len(r.Text) != MaxText {
		t.Errorf("a long text: %d bytes, %v", len(r.Text), err)
	}
}

func TestHeaders(t *testing.T) {
	good := Header{Len: 8, Type: Hit, Files: 1, Request: 1 << 50}
	if h, err := parseHeader(good.Append(nil), true); h != good || err != nil {
		t.Errorf("%+v, %v", h, err)
	}
	reserved := good.Append(nil)
	reserved[7] = 1
	for name, c := range map[string]struct {
		b       []byte
		answers bool
	}{
		"an answer as a request":       {good.Append(nil), false},
		"a request as an answer":       {Header{Type: Ping}.Append(nil), true},
		"an unknown type":              {Header{Type: 63}.Append(nil), false},
		"too long":                     {Header{Type: Ping, Len: 1}.Append(nil), false},
		"a request with a descriptor":  {Header{Type: Ping, Files: 1}.Append(nil), false},
		"an answer with none":          {Header{Type: Hit, Len: 8}.Append(nil), true},
		"an answer with too many":      {Header{Type: Hit, Len: 8, Files: 2}.Append(nil), true},
		"reserved bytes":               {reserved, true},
		"a length of 4 GiB in DEPOSIT": {Header{Type: Deposit, Len: 1<<32 - 1}.Append(nil), false},
	} {
		if h, err := parseHeader(c.b, c.answers); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
	for kind := range kinds {
		if strings.HasPrefix(kind.String(), "type ") {
			t.Errorf("type %d has no name", uint8(kind))
		}
	}
}

// TestStatNames compares the numbers' names with those in the specification, order
// included.
func TestStatNames(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "doc", "format", "cache-protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(b), "\n## Numbers of STATISTICS\n")
	var names []string
	for line := range strings.Lines(table) {
		if cells := strings.Split(line, "|"); len(cells) > 1 {
			for _, name := range strings.Split(cells[1], ",") {
				names = append(names, strings.Trim(name, " `"))
			}
		}
	}
	names = slices.DeleteFunc(names, func(s string) bool { return strings.Trim(s, "-") == "" })
	if !slices.Equal(names, StatNames) || len(names) > MaxStats {
		t.Errorf("the specification has %q, want %q", names, StatNames)
	}
}

// sockets returns the two ends of a connection.
func sockets(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
		t.Cleanup(func() { _ = c.Close() })
	}
	return ends[0], ends[1]
}

// TestConn sends many messages, some with descriptors, and checks that each
// arrives with its own.
func TestConn(t *testing.T) {
	a, b := sockets(t)
	out, in := NewConn(a, false, time.Second), NewConn(b, true, time.Second)
	path := filepath.Join(t.TempDir(), "file")
	go func() {
		for i := range 300 {
			var err error
			if i%3 == 0 {
				var f *os.File
				if f, err = os.Create(path); err == nil {
					_ = os.Remove(path)
					_, _ = fmt.Fprint(f, i)
					err = out.Write(Hit, uint64(i), Held{Size: 5, Checked: 5}.Append, f)
					_ = f.Close()
				}
			} else {
				err = out.Write(Listed, uint64(i), func(b []byte) []byte { return AppendEntries(b, make([]Entry, i*3)) }, nil)
			}
			if err != nil {
				t.Errorf("message %d: %v", i, err)
			}
		}
		_ = out.Close()
	}()
	for i := range 300 {
		m, err := in.Read()
		if err != nil || m.Request != uint64(i) {
			t.Fatalf("message %d: %d, %v", i, m.Request, err)
		}
		if i%3 != 0 {
			if int(m.Len) != i*3*entryLen {
				t.Fatalf("message %d has %d bytes", i, m.Len)
			}
			continue
		}
		f := m.File()
		got := make([]byte, 10)
		n, _ := f.ReadAt(got, 0)
		if string(got[:n]) != fmt.Sprint(i) {
			t.Errorf("message %d came with the descriptor of %q", i, got[:n])
		}
		_ = f.Close()
		if m.File() != nil {
			t.Error("a descriptor is given out twice")
		}
		m.Close()
	}
	if _, err := in.Read(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last message: %v", err)
	}
}

// TestConnDeadline reads what comes in two halves with a deadline between them.
func TestConnDeadline(t *testing.T) {
	a, b := sockets(t)
	in := NewConn(b, false, time.Second)
	msg := append(Header{Type: Renew, Len: 8, Request: 5}.Append(nil), AppendNumber(nil, 6)...)
	_, _ = a.Write(msg[:20])
	_ = b.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := in.Read(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	_ = b.SetReadDeadline(time.Time{})
	_, _ = a.Write(msg[20:])
	if m, err := in.Read(); err != nil || m.Request != 5 || len(m.Payload) != 8 {
		t.Errorf("%+v, %v", m, err)
	}
	_, _ = a.Write(msg[:7])
	_ = a.Close()
	if _, err := in.Read(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut within a message: %v", err)
	}
}

// TestConnHostile sends descriptors that nobody asked for, and messages without
// the one that they should have. None stays open.
func TestConnHostile(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	many := make([]int, 200)
	for i := range many {
		many[i] = int(file.Fd())
	}
	hit := append(Header{Type: Hit, Files: 1, Len: heldLen}.Append(nil), Held{Size: 5, Checked: 5}.Append(nil)...)
	done := Header{Type: Done}.Append(nil)
	for name, c := range map[string]struct {
		b     []byte
		files []int
		times int
	}{
		"no descriptor":          {hit, nil, 1},
		"two for one":            {hit, many[:2], 4},
		"one for none":           {done, many[:1], MaxFiles + 1},
		"five":                   {done, many[:5], 1},
		"two hundred":            {hit, many, 1},
		"with half a message":    {hit[:10], many[:1], 1},
		"nonsense after a hit":   {append(bytes.Clone(hit), "nonsense, and more of it"...), many[:1], 1},
		"a request for answers":  {Header{Type: Ping}.Append(nil), many[:1], 1},
		"a length of four GiB":   {Header{Type: Listed, Len: 1<<32 - 1}.Append(nil), many[:1], 1},
		"five, one after other":  {hit[:2], many[:1], 5},
		"more than can be there": {hit[:1], many[:4], 2},
	} {
		t.Run(name, func(t *testing.T) {
			before := openfiles.In(t)
			a, b := sockets(t)
			in := NewConn(b, true, time.Second)
			for range c.times {
				if _, _, err := a.WriteMsgUnix(c.b, syscall.UnixRights(c.files...), nil); err != nil {
					t.Fatal(err)
				}
			}
			_ = a.Close()
			var err error
			for err == nil {
				var m Message
				m, err = in.Read()
				m.Close()
			}
			_ = in.Close()
			if after := openfiles.In(t); after != before {
				t.Errorf("%d descriptors more are open, after %v", after-before, err)
			}
		})
	}
}

// TestConnNobodyReads bounds how long a writer is held up.
func TestConnNobodyReads(t *testing.T) {
	a, _ := sockets(t)
	out := NewConn(a, false, 20*time.Millisecond)
	for range 1000 {
		if err := out.Write(Listed, 1, func(b []byte) []byte { return AppendEntries(b, make([]Entry, 1000)) }, nil); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
			return
		}
	}
	t.Error("everything was written, and nobody reads")
}

// drive feeds b to a decoder in portions that rng chooses, with descriptors
// between them, and closes what comes out. It returns how many were closed.
func drive(d *decoder, b []byte, files int, rng *rand.Rand) (closed int, messages []Header) {
	closeFile = func(int) { closed++ }
	defer func() { closeFile = func(fd int) { _ = syscall.Close(fd) } }()
	defer d.close()
	for len(b) > 0 {
		space := d.space()
		n := copy(space[:1+rng.IntN(len(space))], b)
		b = b[n:]
		var some []int
		for files > 0 && rng.IntN(2) == 0 {
			some, files = append(some, 1000), files-1
		}
		closed -= len(some)
		if err := d.arrived(n, some); err != nil {
			return closed, messages
		}
		for {
			m, ok, err := d.next()
			if err != nil {
				return closed, messages
			}
			if !ok {
				break
			}
			messages = append(messages, m.Header)
			m.Close()
		}
		if len(d.buf) > 2*(HeaderLen+MaxPayload) {
			panic("the buffer grows")
		}
	}
	return closed, messages
}

// FuzzDecoder feeds a decoder of either side in portions, with descriptors, and
// all payloads to all parsers.
func FuzzDecoder(f *testing.F) {
	var all []byte
	for _, p := range payloads {
		h := Header{Len: uint32(len(p.b)), Type: p.kind, Files: uint8(kinds[p.kind].files), Request: 9}
		m := append(h.Append(nil), p.b...)
		f.Add(m, uint8(1), uint64(1))
		all = append(all, m...)
	}
	f.Add(all, uint8(3), uint64(2))
	f.Fuzz(func(t *testing.T, b []byte, files uint8, seed uint64) {
		for _, answers := range []bool{false, true} {
			closed, headers := drive(&decoder{answers: answers}, b, int(files%8), rand.New(rand.NewPCG(seed, 0)))
			if closed != 0 {
				t.Errorf("%d descriptors of those that came are open", -closed)
			}
			for _, h := range headers {
				if h.Type.IsAnswer() != answers || int(h.Len) > kinds[h.Type].most {
					t.Errorf("%+v was let through", h)
				}
			}
		}
		for _, p := range payloads {
			v, err := p.parse(b)
			if err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("%v: untyped error %v", p.kind, err)
			}
			if err == nil && !bytes.Equal(encode(t, v), b) {
				t.Errorf("%v: %+v has two encodings", p.kind, v)
			}
		}
	})
}

// encode is the inverse of a parser.
func encode(t *testing.T, v any) []byte {
	switch v := v.(type) {
	case Want:
		return v.Append(nil)
	case Errand:
		b, err := v.Append(nil)
		if err != nil {
			t.Errorf("an errand that was parsed: %v", err)
		}
		return b
	case Piece:
		return v.Append(nil)
	case uint64:
		return AppendNumber(nil, v)
	case chunk.ID:
		return AppendIDs(nil, v)
	case []chunk.ID:
		return AppendIDs(nil, v...)
	case []uint64:
		return AppendNumbers(nil, v...)
	case []Entry:
		return AppendEntries(nil, v)
	}
	return v.(interface{ Append(b []byte) []byte }).Append(nil)
}
