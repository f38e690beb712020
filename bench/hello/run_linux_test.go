package main

import (
	"strings"
	"testing"
)

// A turn is over if both starts of the contender are had, and those of who follows it.
func TestDone(t *testing.T) {
	of := func(kind, contender string) result {
		return result{Kind: kind, Link: farLink, Image: "base", Contender: contender, Round: 1}
	}
	start, second := of(kindStart, rivuletProfile), of(kindSecond, rivuletProfile)
	l1Start, l1Second := of(kindStart, rivuletL1), of(kindSecond, rivuletL1)
	leader, follower := contender{Name: rivuletProfile}, contender{Name: rivuletL1, Follows: rivuletProfile}
	base, whole := workload{Name: "base"}, workload{Name: "base", Whole: true}
	for name, tc := range map[string]struct {
		had    []result
		second int
		w      workload
		alone  bool // nobody follows
		round  int
		want   bool
	}{
		"nothing":                           {nil, 9, base, true, 1, false},
		"all":                               {[]result{start, second}, 9, base, true, 1, true},
		"all of another round":              {[]result{start, second}, 9, base, true, 2, false},
		"killed before the second start":    {[]result{start}, 9, base, true, 1, false},
		"the second start is not wanted":    {[]result{start}, 0, base, true, 1, true},
		"workloads that read all have none": {[]result{start}, 9, whole, true, 1, true},
		"the follower is not had":           {[]result{start, second}, 9, base, false, 1, false},
		"half of the follower is":           {[]result{start, second, l1Start}, 9, base, false, 1, false},
		"the follower too":                  {[]result{start, second, l1Start, l1Second}, 9, base, false, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := plan{had: tc.had, second: tc.second, contenders: []contender{leader}}
			if !tc.alone {
				p.contenders = append(p.contenders, follower)
			}
			if done := p.done(farLink, tc.w, &leader, tc.round); done != tc.want {
				t.Errorf("done %v, want %v", done, tc.want)
			}
		})
	}
}

// A steady round that was stopped goes on with the works that it lacks.
func TestSteadyLeft(t *testing.T) {
	p := plan{had: []result{{Kind: kindSteady, Image: steadyImage, Contender: plain, Round: 1, Work: "stat", Rate: 10}}}
	for _, tc := range []struct {
		contender string
		round     int
		want      string
	}{{plain, 1, "read cold"}, {plain, 2, "stat read cold"}, {rivuletProfile, 1, "stat read cold"}} {
		var works []string
		for _, r := range p.steadyLeft(&contender{Name: tc.contender}, tc.round) {
			works = append(works, r.Work)
			p.had = append(p.had, r)
		}
		if got := strings.Join(works, " "); got != tc.want {
			t.Errorf("%s, round %d: left is %s, want %s", tc.contender, tc.round, got, tc.want)
		}
		if left := p.steadyLeft(&contender{Name: tc.contender}, tc.round); len(left) != 0 {
			t.Errorf("%s, round %d: left of all is %v", tc.contender, tc.round, left)
		}
	}
}
