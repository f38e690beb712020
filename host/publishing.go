package host

import (
	"errors"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/internal/tokenbucket"
)

// ProfilesPerHour is how many profiles a host publishes an hour unless it is told
// otherwise, and how many in a row.
const ProfilesPerHour = 120

// Why a profile is not published but kept on this host.
var (
	errOwnProfiles = errors.New("profiles are not published by this host")
	errTooMany     = errors.New("this host has published many profiles of late")
)

// A publishing bounds how often a host publishes profiles. What a start has taught that comes too
// soon is kept, and goes with a later one of its image.
type publishing struct {
	own bool // none is published

	mu     sync.Mutex // guards what follows
	bucket tokenbucket.Bucket
}

func newPublishing(own bool, perHour int) *publishing {
	if perHour <= 0 {
		perHour = ProfilesPerHour
	}
	return &publishing{own: own, bucket: tokenbucket.Bucket{PerSecond: float64(perHour) / time.Hour.Seconds(), Burst: float64(perHour)}}
}

// allowed reports, by a nil error, that a profile may be published now, and counts it.
func (p *publishing) allowed(now time.Time) error {
	if p.own {
		return errOwnProfiles
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bucket.Wait(now, 1) > 0 {
		return errTooMany
	}
	p.bucket.Take(now, 1)
	return nil
}
