package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/zone"
)

// A zonePrimer puts the chunks of a published image into a zone. A nil one does
// nothing.
type zonePrimer struct {
	app  *app
	zone *zone.Zone
}

// primeZone returns what primes the zone at an address, which may be empty.
func (a *app) primeZone(address string) (*zonePrimer, error) {
	if address == "" {
		return nil, nil
	}
	z, err := a.openZone(address)
	if err != nil {
		return nil, err
	}
	return &zonePrimer{a, z}, nil
}

func (p *zonePrimer) close() {
	if p != nil {
		_ = p.zone.Close() // never fails
	}
}

// prime puts what the zone lacks of the image with that block map. The image is
// published already, whatever comes of it.
func (p *zonePrimer) prime(ctx context.Context, store origin.Origin, blockMap string, quiet bool) error {
	if p == nil {
		return nil
	}
	image, err := generation.NewView(store, generation.Options{Logger: p.app.logger()}).Open(ctx, blockMap)
	if err != nil {
		return fmt.Errorf("published, but the zone is not primed: %w", err)
	}
	ids := slices.Collect(maps.Keys(distinct(image.Map)))
	said := time.Now()
	done, err := p.zone.Prime(ctx, ids, chunk.NewDoor(image), func(done, total int) {
		if !quiet && time.Since(said) > plainEvery {
			said = time.Now()
			p.app.note("zone: %d of %d chunks", done, total)
		}
	})
	if err != nil {
		return fmt.Errorf("published, but the zone is not primed: %w", err)
	}
	if !quiet {
		p.app.note("zone: %d chunks put, %d were there", done.Put, done.There)
	}
	return nil
}
