package main

import "github.com/rivuletfs/rivulet/store/cache/evict/simulate"

// traces makes what the policies are compared on.
func traces() []*simulate.Trace {
	people := simulate.Load{
		Seed: 1, Hours: 12, Starts: 200,
		Functions: 500, Skew: 0.9, Bases: 20, Shared: 40, Own: 60, Again: 0.5, HerdEach: 1,
	}
	herd := people
	herd.Name, herd.Herd = "cron herd, hourly", 100
	daily := people
	daily.Name, daily.Herd, daily.HerdEach = "cron herd, daily", 1200, 12
	churn := people
	churn.Name, churn.Renewed, churn.Changed = "churn", 0.1, 0.5
	both := herd
	both.Name, both.Renewed, both.Changed = "herd and churn", 0.05, 0.3
	people.Name = "starts"
	list := []*simulate.Trace{}
	for i, skew := range []float64{0.6, 0.8, 1.0, 1.2} {
		list = append(list, simulate.Zipf(uint64(10+i), 5_000, 200_000, skew, 10))
	}
	for _, l := range []simulate.Load{people, herd, daily, churn, both} {
		list = append(list, simulate.Fleet(l))
	}
	return list
}
