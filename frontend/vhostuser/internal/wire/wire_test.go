package wire

import (
	"bytes"
	"testing"
)

// FuzzMessage parses any payload as each message that has one: what is accepted
// comes back the same when it is written again.
func FuzzMessage(f *testing.F) {
	region := Region{Guest: 1 << 20, Size: 4096, User: 1 << 30, Offset: 8192}
	for i, payload := range [][]byte{
		AppendUint64(nil, 1<<32), VringFile{3, true}.Append(nil), VringState{1, 2}.Append(nil),
		VringAddr{1, 0, 2, 3, 4, 5}.Append(nil), AppendTable(nil, []Region{region, region}), region.Append(nil),
		Config{4, 1, []byte("abc")}.Append(nil), Inflight{4096, 0, 2, 128}.Append(nil), make([]byte, BlkConfigSize),
	} {
		f.Add(Header{Request(i), FlagNeedReply, uint32(len(payload))}.Append(nil), payload)
	}
	f.Fuzz(func(t *testing.T, header, b []byte) {
		same := func(what string, err error, got []byte, mask int) {
			if err == nil && !bytes.Equal(got[:len(got)-mask], b[:len(b)-mask]) {
				t.Errorf("%s: %x, written again %x", what, b, got)
			}
		}
		if len(header) >= HeaderSize {
			h, err := ParseHeader(header)
			if err == nil && (h.Size > MaxPayload || !bytes.Equal(h.Append(nil), header[:HeaderSize])) {
				t.Errorf("header %x: %+v", header, h)
			}
		}
		v, err := ParseUint64(b)
		same("number", err, AppendUint64(nil, v), 0)
		s, err := ParseVringState(b)
		same("ring state", err, s.Append(nil), 0)
		a, err := ParseVringAddr(b)
		same("ring addresses", err, a.Append(nil), 0)
		if file, err := ParseVringFile(b); err == nil && (file.Index < 0 || file.Index > 255) {
			t.Errorf("ring file %x: %+v", b, file)
		}
		table, err := ParseTable(b)
		if err == nil && (len(table) > MaxTable || !bytes.Equal(AppendTable(nil, table)[8:], b[8:])) {
			t.Errorf("memory table %x: %v", b, table)
		}
		r, err := ParseRegion(b)
		if err == nil && !bytes.Equal(r.Append(nil)[8:], b[8:]) {
			t.Errorf("memory region %x: %v", b, r)
		}
		for _, r := range append(table, r) {
			if err == nil && (r.Guest+r.Size < r.Guest || r.User+r.Size < r.User || int64(r.Offset+r.Size) < 0) {
				t.Errorf("memory region %x: %v", b, r)
			}
		}
		c, err := ParseConfig(b)
		same("configuration", err, c.Append(nil), 0)
		if err == nil && uint64(c.Offset)+uint64(len(c.Data)) > MaxConfig {
			t.Errorf("configuration %x: %+v", b, c)
		}
		i, err := ParseInflight(b)
		if err == nil && !bytes.Equal(i.Append(nil)[:inflightSize], b[:inflightSize]) {
			t.Errorf("inflight %x: %+v", b, i)
		}
	})
}

func TestBlkConfig(t *testing.T) {
	want := BlkConfig{
		Capacity: 1 << 40, SegMax: 126, BlockSize: 512, PhysicalExponent: 3, OptimalIO: 1024, Writeback: 1, Queues: 7,
		MaxDiscard: 8, MaxDiscardSegs: 9, DiscardAlign: 10, MaxWriteZeroes: 11, MaxWriteZeroesSeg: 12, MayUnmap: 1,
	}
	b := want.Append(nil)
	if len(b) != BlkConfigSize || b[WritebackOffset] != 1 {
		t.Fatalf("%d bytes: %x", len(b), b)
	}
	if got, err := ParseBlkConfig(b); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := ParseBlkConfig(b[1:]); err == nil {
		t.Error("a short one: no error")
	}
}

func TestBlkStructures(t *testing.T) {
	var b [16]byte
	h := BlkHeader{BlkWriteZeroes, 1 << 50}
	h.Put(b[:])
	if got := ParseBlkHeader(&b); got != h {
		t.Errorf("header: %+v", got)
	}
	r := Range{1 << 33, 1 << 31, FlagUnmap}
	r.Put(b[:])
	if got := ParseRange(&b); got != r {
		t.Errorf("range: %+v", got)
	}
}
