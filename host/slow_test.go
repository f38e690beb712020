package host

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/store/memory"
)

// slowSite is a site whose store takes its time.
func slowSite(t *testing.T, latency time.Duration, told *atomic.Int64) (*site, *Host) {
	t.Helper()
	s := newSite(t)
	c := s.config()
	c.Slow = time.Millisecond
	c.OnSlow = func(*disk.SlowRead) { told.Add(1) }
	open := c.Open
	c.Open = func(ctx context.Context, url string) (Source, error) {
		src, err := open(ctx, url)
		src.Bound = func(src chunk.Source, _ string) chunk.Source { return &chunktest.Slow{Source: src, Latency: latency} }
		return src, err
	}
	h, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	if err := h.Recover(t.Context(), &keep.Inherited{}); err != nil {
		t.Fatal(err)
	}
	return s, h
}

// TestSlowReads has two attachments of one disk, of which one waits for the store.
func TestSlowReads(t *testing.T) {
	const latency = 5 * time.Millisecond
	var told atomic.Int64
	s, h := slowSite(t, latency, &told)
	infos := s.attach(h, spec("tree", "a"), spec("tree", "b"))
	before := time.Now()
	b := make([]byte, 1000)
	if _, err := s.front.at("a").offer.Device.ReadAt(b, 1024); err != nil {
		t.Fatal(err)
	}
	if _, err := s.front.at("b").offer.Device.ReadAt(b, 1024); err != nil { // from memory
		t.Fatal(err)
	}
	slow, err := h.Slow(infos[0].ID)
	if err != nil || slow.Slow != time.Millisecond || len(slow.Reads) != 1 || len(slow.Tiers) != 1 {
		t.Fatalf("slow reads %+v, %v", slow, err)
	}
	r := slow.Reads[0]
	if r.Offset != 1024 || r.Length != len(b) || r.Tier != "origin" || r.Wait < latency || r.Begun.Before(before) ||
		r.Fetches != 1 || r.Retries != 0 || r.Opening || r.Error != "" {
		t.Errorf("the slow read is kept as %+v", r)
	}
	if tier := slow.Tiers[0]; tier.Tier != "origin" || tier.Reads != 1 || tier.Failed != 0 || tier.Waits.Sum != r.Wait || tier.Longest != r.Wait {
		t.Errorf("it is summed up as %+v", tier)
	}
	if slow, err := h.Slow(infos[1].ID); err != nil || len(slow.Reads) != 0 || len(slow.Tiers) != 0 {
		t.Errorf("slow reads of who had none: %+v, %v", slow, err)
	}
	if list := h.List(); list[0].SlowReads+list[1].SlowReads != 1 || list[0].Waits != 0 || told.Load() != 1 {
		t.Errorf("listed as %+v; %d were told on", list, told.Load())
	}
	if _, err := h.Slow("nosuch"); !errors.Is(err, ErrNotFound) {
		t.Errorf("slow reads of nothing: %v", err)
	}
}

// TestSlowLog keeps the newest reads, and counts all.
func TestSlowLog(t *testing.T) {
	var l slowLog
	for i := range MaxSlowReads + 5 {
		l.add(&disk.SlowRead{Offset: int64(i), Tier: chunk.Zone, Wait: time.Duration(i) * 10 * time.Millisecond})
	}
	failed := disk.SlowRead{Begun: time.Now(), Err: errors.New(strings.Repeat("x", 1000)), Fetches: []disk.SlowFetch{
		{Queued: 3, Steps: []chunk.Step{{Tier: chunk.HostCache, Err: chunk.ErrNotFound}, {Tier: chunk.Origin, Err: chunk.ErrNotFound}}}, {Queued: 2},
	}, More: 7}
	l.add(&failed)
	s := l.tell()
	if n, at := l.count(); n != MaxSlowReads+6 || !at.Equal(failed.Begun) {
		t.Errorf("%d reads are counted, the last failed at %v", n, at)
	}
	if len(s.Reads) != MaxSlowReads || len(s.Tiers) != 2 {
		t.Fatalf("%d reads are kept, in %d tiers", len(s.Reads), len(s.Tiers))
	}
	for i, r := range s.Reads[:MaxSlowReads-1] {
		if r.Offset != int64(i+6) {
			t.Fatalf("read %d is that at %d", i, r.Offset)
		}
	}
	if r := s.Reads[MaxSlowReads-1]; r.Tier != "none" || len(r.Error) != maxSlowError || r.Queued != 3 || r.Fetches != 9 || r.Retries != 1 || r.Opening {
		t.Errorf("the failed read is kept as %+v", r)
	}
	none, zone := s.Tiers[0], s.Tiers[1]
	if none.Failed != 1 || none.Reads != 1 || zone.Tier != "zone" || zone.Failed != 0 || zone.Longest != 10280*time.Millisecond {
		t.Errorf("tiers %+v", s.Tiers)
	}
	if n := zone.Waits.Total(); n != MaxSlowReads+5 || zone.Reads != n || zone.Waits.Buckets[20] != MaxSlowReads+5-839 { // from 8.4 s on
		t.Errorf("%d waits of %d reads: %v", n, zone.Reads, zone.Waits.Buckets)
	}
}

// TestSlowOpening tells of reads that waited for a disk that was not open.
func TestSlowOpening(t *testing.T) {
	var l slowLog
	d := newDevice("x", 4096, time.Millisecond)
	d.slow, d.onSlow = time.Hour, l.add
	if _, err := d.ReadAt(make([]byte, 7), 9); !errors.Is(err, errNotOpen) {
		t.Fatal(err)
	}
	if s := l.tell(); len(s.Reads) != 1 || !s.Reads[0].Opening || s.Reads[0].Error == "" || s.Reads[0].Offset != 9 || s.Reads[0].Length != 7 {
		t.Errorf("kept as %+v", s)
	}
	close(d.closed)
	if _, err := d.ReadAt(make([]byte, 7), 9); !errors.Is(err, errNotOpen) || len(l.tell().Reads) != 1 {
		t.Errorf("read of a closed device: %v, kept as %+v", err, l.tell())
	}
}

// deaf is a store that does not answer.
type deaf struct{ *memory.Origin }

func (deaf) GetPointer(ctx context.Context, _ string) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestStores asks one store that answers and one that does not.
func TestStores(t *testing.T) {
	s := newSite(t)
	h := s.start()
	s.attach(h, spec("tree", "a"))
	if list := h.Stores(t.Context()); len(list) != 1 || list[0].Store != "memory" || list[0].Problem != "" {
		t.Errorf("a store that answers: %+v", list)
	}
	slot := new(sourceSlot)
	slot.source.Store(&Source{View: generation.NewView(deaf{s.origin}, generation.Options{})})
	h.mu.Lock()
	h.sources["deaf"], h.sources["unopened"] = slot, new(sourceSlot)
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	list := h.Stores(ctx)
	if len(list) != 3 || list[2].Store != "unopened" || list[2].Problem == "" || list[0].Store != "deaf" || list[0].Problem == "" || list[0].Took <= 0 || list[1].Store != "memory" {
		t.Errorf("stores %+v", list)
	}
}
