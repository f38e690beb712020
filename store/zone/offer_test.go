package zone_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/store/zone"
)

// A taker is a door of its own, and notes what it was offered.
type taker struct {
	id     chunk.ID
	offers [][]byte
	wrong  int
}

func (k *taker) take(object []byte) error {
	k.offers = append(k.offers, slices.Clone(object))
	_, err := chunk.Verify(k.id, object)
	if err != nil {
		k.wrong++
	}
	return err
}

// TestOffer has chunks of all sizes taken, by every scheme; none that is not there; and
// returns what a taker says as it is, once.
func TestOffer(t *testing.T) {
	all := chunktest.Objects(1)
	objects := []chunktest.Object{all[0], all[3], all[6]} // the last one is larger than usual
	_, urls := servers(t, 9)
	for name, scheme := range schemes {
		t.Run(name, func(t *testing.T) {
			z := open(t, zone.Config{Nodes: urls, Scheme: scheme})
			put(t, z, objects...)
			for _, o := range objects {
				k := taker{id: o.ID}
				if err := z.Offer(context.Background(), o.ID, k.take); err != nil || len(k.offers) != 1 || !bytes.Equal(k.offers[0], o.Bytes) {
					t.Errorf("%d bytes: offered %d times: %v", len(o.Bytes), len(k.offers), err)
				}
			}
			var none taker
			if err := z.Offer(context.Background(), chunktest.Absent, none.take); !errors.Is(err, chunk.ErrNotFound) || len(none.offers) != 0 {
				t.Errorf("absent: %v, offered %d times", err, len(none.offers))
			}
			ended, end := context.WithCancel(context.Background())
			end()
			if err := z.Offer(ended, objects[0].ID, none.take); !errors.Is(err, context.Canceled) || len(none.offers) != 0 {
				t.Errorf("cancelled: %v, offered %d times", err, len(none.offers))
			}
			before, full, offers := z.Stats(), errors.New("no room"), 0
			err := z.Offer(context.Background(), objects[0].ID, func([]byte) error { offers++; return full })
			after := z.Stats()
			if err != full || offers != 1 || after.Hits != before.Hits+1 || after.Failed != before.Failed {
				t.Errorf("a taker without room: %v, offered %d times, %d failed", err, offers, after.Failed-before.Failed)
			}
		})
	}
}

// TestOfferForged: a taker is offered what forged stripes make once at most, and then
// the chunk; the forger is found out, and its stripe put right. With too many forged ones
// it is offered nothing else, and told of the damage.
func TestOfferForged(t *testing.T) {
	list, urls := servers(t, 5)
	z := open(t, zone.Config{Nodes: urls})
	o := chunktest.Random(1, 100_000, chunk.FrameSize)
	put(t, z, o)
	spoil := func(i int) (right func() bool) {
		key := key(zone.DefaultScheme, &o, i)
		s := holder(t, list, key)
		good := s.Value(key)
		s.SetValue(key, zone.Forged(good, 4, 5))
		return func() bool { return bytes.Equal(s.Value(key), good) }
	}
	right := spoil(0)
	wrong := 0
	eventually(t, "put right", func() bool {
		k := taker{id: o.ID}
		if err := z.Offer(context.Background(), o.ID, k.take); err != nil || k.wrong > 1 || len(k.offers) != k.wrong+1 {
			t.Fatalf("offered %d times, %d of them wrong: %v", len(k.offers), k.wrong, err)
		}
		wrong += k.wrong
		return right()
	})
	if s := z.Stats(); wrong > 0 && s.Forged == 0 {
		t.Errorf("forgers were not found out: %+v", s)
	}
	spoil(1)
	spoil(2)
	k := taker{id: o.ID}
	var corrupt *chunk.CorruptError
	if err := z.Offer(context.Background(), o.ID, k.take); !errors.As(err, &corrupt) || k.wrong != 1 || len(k.offers) != 1 {
		t.Errorf("offered %d times, %d of them wrong: %v; want once, and damage", len(k.offers), k.wrong, err)
	}
}
