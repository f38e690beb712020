// Command evict compares eviction policies on traces.
package main

import (
	"fmt"
	"time"

	"github.com/rivuletfs/rivulet/store/cache/evict"
	"github.com/rivuletfs/rivulet/store/cache/evict/simulate"
)

func main() {
	type pol struct {
		name string
		open func() evict.Policy
	}
	lk := func(k int, c time.Duration, rec int, h int) pol {
		return pol{fmt.Sprintf("LRU-%d crp%v rec%v h%d", k, c, rec, h), func() evict.Policy {
			return evict.NewLRUK(evict.Options{K: k, Correlated: c, Recent: rec, History: h})
		}}
	}
	pols := []pol{
		{"LRU", func() evict.Policy { return evict.NewLRU() }},
		{"SIEVE", func() evict.Policy { return evict.NewSIEVE() }},
		{"S3", func() evict.Policy { return evict.NewS3FIFO() }},
		lk(2, 10*time.Second, 0, 0),
		lk(2, 10*time.Second, 5, 0),
		lk(2, 10*time.Second, 10, 0),
		lk(2, 10*time.Second, 20, 0),
		lk(2, 10*time.Second, 10, 50),
		lk(2, 10*time.Second, 20, 50),
		lk(2, 10*time.Second, 20, 100),
		lk(2, 10*time.Second, 20, 200),
		lk(2, time.Minute, 10, 0),
		lk(2, time.Minute, 20, 0),
		lk(2, time.Minute, 20, 100),
		lk(3, 10*time.Second, 20, 50),
	}
	for _, t := range traces() {
		ws := t.WorkingSet()
		b := time.Now()
		fmt.Printf("\n%s: %d reqs, %d chunks, %d MB\n", t.Name, len(t.Requests), len(t.Costs), ws>>20)
		sizes := []int{1, 2, 5, 10, 20, 50}
		for _, p := range pols {
			fmt.Printf("%-30s", p.name)
			for _, s := range sizes {
				r := simulate.Run(p.open(), ws*int64(s)/100, t, len(t.Requests)/4)
				fmt.Printf(" %6.2f", 100*r.HitRatio())
			}
			fmt.Println()
		}
		fmt.Println("\n", time.Since(b))
	}
}
