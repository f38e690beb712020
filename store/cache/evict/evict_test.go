package evict_test

import (
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/store/cache/evict"
	"github.com/rivuletfs/rivulet/store/cache/evict/evicttest"
)

// policies are all kinds there are.
var policies = []struct {
	name string
	open func() evict.Policy
}{
	{"LRU", func() evict.Policy { return evict.NewLRU() }},
	{"SIEVE", func() evict.Policy { return evict.NewSIEVE() }},
	{"S3FIFO", func() evict.Policy { return evict.NewS3FIFO() }},
	{"LRU-1", func() evict.Policy { return evict.NewLRUK(evict.Options{K: 1}) }},
	{"LRU-2", func() evict.Policy { return evict.NewLRUK(evict.Options{Correlated: 3 * time.Second, History: 200}) }},
	{"LRU-3", func() evict.Policy {
		return evict.NewLRUK(evict.Options{K: 3, Correlated: time.Second, Retained: 10 * time.Second, History: 100})
	}},
	{"default", func() evict.Policy { return evict.New() }},
}

func TestPolicies(t *testing.T) {
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) { evicttest.TestPolicy(t, p.open) })
	}
}
