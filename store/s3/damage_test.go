package s3

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/internal/faultproxy"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/origintest"
	"github.com/rivuletfs/rivulet/store/s3/s3test"
)

// TestDamage damages each single answer of a session, in each way.
func TestDamage(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.NewBucket(t)
	fill, proxy := behind(t, server, bucket)
	url := server.Via(proxy.Addr(), bucket, "")
	origintest.TestDamage(t, fill, func(t *testing.T) origin.Origin {
		o := open(t, url)
		o.policy.First = time.Millisecond
		return o
	}, origintest.Wire{
		Answers: func() int { n, _ := proxy.Requests(); return n },
		Spoil:   func(n int, how string, random uint64) { proxy.Single(n, faultproxy.Kind(how), random) },
	})
}

func TestCorruptPointers(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.NewBucket(t)
	o := open(t, server.URL(bucket, "a/b"))
	o.policy.First, o.policy.Budget.Burst, o.policy.Budget.Share = time.Millisecond, 1<<20, 1
	origintest.TestCorruptPointers(t, o, o, filepath.Join(server.Dir, bucket, "a/b"))
}

func TestDamagedIndex(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.NewBucket(t)
	origintest.TestDamagedIndex(t, open(t, server.URL(bucket, "a/b")), filepath.Join(server.Dir, bucket, "a/b"))
}
