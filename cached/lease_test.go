package cached_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/cached"
	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/cached/internal/wire"
)

// TestLeasePasses has the first asker do nothing, go, give its lease back or keep
// it for ever: the next one gets it, and after its deposit both have the chunk.
func TestLeasePasses(t *testing.T) {
	for name, lose := range map[string]func(k *talker, lease uint64){
		"Hangs": func(*talker, uint64) {},
		"Goes":  func(k *talker, _ uint64) { _ = k.wire.Close() },
		"Abandons": func(k *talker, lease uint64) {
			k.send(wire.Abandon, func(b []byte) []byte { return wire.AppendNumber(b, lease) })
		},
		"DepositsHalf": func(k *talker, lease uint64) {
			o := full(1)
			k.deposit(lease, o.Bytes, 0, wire.MaxPiece)
		},
		"DepositsHalfAndGoes": func(k *talker, lease uint64) {
			o := full(1)
			k.deposit(lease, o.Bytes, 0, wire.MaxPiece)
			k.wait(wire.Done)
			_ = k.wire.Close()
		},
		"RenewsForEver": func(k *talker, lease uint64) {
			go func() {
				for k.wire.Write(wire.Renew, 99, func(b []byte) []byte { return wire.AppendNumber(b, lease) }, nil) == nil {
					time.Sleep(30 * time.Millisecond)
				}
			}()
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := full(1)
			d := cachedtest.Start(t, func(c *cached.Config) { c.Lease = 600 * time.Millisecond }) // one that is renewed ends after 15 times that
			a, b := talk(t, d.Socket), talk(t, d.Socket)
			lease := a.lease(o.ID)
			b.get(o.ID, 0, 0, long)
			b.silent(20 * time.Millisecond)
			lose(a, lease)
			m := b.wait(wire.Lease)
			r, _ := wire.ParseRight(m.Payload)
			b.depositAll(r.Lease, o.Bytes)
			b.get(o.ID, 0, 0, 0)
			if n := check(t, b.wait(wire.Hit), &o); n != len(o.Bytes) {
				t.Errorf("a hit with %d bytes", n)
			}
			c := talk(t, d.Socket)
			c.deposit(lease, o.Bytes, 0, 10)
			if r := c.refusal(wire.Fail); r.Reason != wire.NoLease {
				t.Errorf("a stranger's deposit: %+v", r)
			}
		})
	}
}

// TestLeaseSurvives has the holder die when its download runs.
func TestLeaseSurvives(t *testing.T) {
	o := full(1)
	d, origin := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, o)
	origin.Delay(50 * time.Millisecond)
	a, b := talk(t, d.Socket), talk(t, d.Socket)
	lease := a.lease(o.ID)
	b.get(o.ID, 0, 0, long)
	a.fetch(lease, origin, o.ID)
	a.wait(wire.Done)
	_ = a.wire.Close()
	check(t, b.wait(wire.Hit), &o)
	if n := origin.Asked()[o.ID]; n != 1 {
		t.Errorf("the chunk left the origin %d times", n)
	}
}

func TestDepositRefused(t *testing.T) {
	o := full(1)
	d := cachedtest.Start(t, nil)
	bad := bytes.Clone(o.Bytes)
	bad[o.Header.Len()+10] ^= 1
	for name, c := range map[string]struct {
		do     func(k *talker, lease uint64)
		reason wire.Reason
	}{
		"wrong bytes": {func(k *talker, lease uint64) {
			k.deposit(lease, bad, 0, wire.MaxPiece)
			k.wait(wire.Done) // the frame is not whole yet
			k.deposit(lease, bad, wire.MaxPiece, wire.MaxPiece)
		}, wire.Corrupt},
		"not from the begin": {func(k *talker, lease uint64) { k.deposit(lease, o.Bytes, 10, 10) }, wire.WrongUse},
		"a piece left out": {func(k *talker, lease uint64) {
			k.deposit(lease, o.Bytes, 0, 1000)
			k.wait(wire.Done)
			k.deposit(lease, o.Bytes, 1001, 1000)
		}, wire.WrongUse},
		"another size": {func(k *talker, lease uint64) {
			k.deposit(lease, o.Bytes, 0, 1000)
			k.wait(wire.Done)
			k.deposit(lease, o.Bytes[:5000], 1000, 1000)
		}, wire.WrongUse},
		"no lease": {func(k *talker, lease uint64) { k.deposit(lease+1, o.Bytes, 0, 1000) }, wire.NoLease},
	} {
		t.Run(name, func(t *testing.T) {
			k := talk(t, d.Socket)
			lease := k.lease(o.ID)
			c.do(k, lease)
			if r := k.refusal(wire.Fail); r.Reason != c.reason {
				t.Errorf("%+v, want reason %d", r, c.reason)
			}
			_ = k.wire.Close()
		})
	}
	eventually(t, "nothing is on its way", func() bool { return d.Cache.Stats().Reserved == 0 })
	if n := d.Cache.Stats().Chunks; n != 0 {
		t.Errorf("%d chunks are left", n)
	}
}
