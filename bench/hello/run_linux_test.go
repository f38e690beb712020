package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// resultsFile writes a file of results.
func resultsFile(t *testing.T, list ...result) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "results")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		err = errors.Join(err, writeResult(f, &list[i]))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return name
}

// A run goes on with what the same build has measured on the same machine, and with nothing else.
func TestPrevious(t *testing.T) {
	start := result{Kind: kindStart, Link: farLink, Image: "base", Contender: plain, Round: 1, Pull: 5}
	ours, others, nobodys := result{Kind: kindMachine, Identity: "ours"}, result{Kind: kindMachine, Identity: "others"}, result{Kind: kindMachine}
	for name, tc := range map[string]struct {
		list    []result
		refused bool
	}{
		"its own":                  {[]result{ours, start, ours}, false},
		"another's":                {[]result{others, start}, true},
		"another's later":          {[]result{ours, start, others}, true},
		"of before identities":     {[]result{nobodys, start}, true},
		"begun, nothing was added": {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			file := resultsFile(t, tc.list...)
			had, err := previous(file, "ours")
			if tc.refused && (err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "name another file")) {
				t.Errorf("%v, want the file refused", err)
			}
			if !tc.refused && (err != nil || len(had) != len(tc.list)) {
				t.Errorf("%d results, %v, want %d", len(had), err, len(tc.list))
			}
		})
	}
	if had, err := previous(filepath.Join(t.TempDir(), "none"), "ours"); len(had) != 0 || err != nil {
		t.Errorf("without a file: %v, %v", had, err)
	}
}

// Another build of either of rivulet's programs is another thing to measure.
func TestMachineIdentity(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	identityOf := func(publisher, snapshotter string) string {
		if err := os.WriteFile(filepath.Join(bin, "containerd-rivulet"), []byte(snapshotter), 0o755); err != nil {
			t.Fatal(err)
		}
		m, err := (&bench{publisher: publisher}).machine(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return m.Identity
	}
	one := identityOf("a", "b")
	if again := identityOf("a", "b"); again != one || one == "" {
		t.Errorf("the same build and machine: %q and %q", one, again)
	}
	if identityOf("c", "b") == one || identityOf("a", "c") == one {
		t.Error("another build has the same identity")
	}
}

// What was measured before there were identities is reported and compared.
func TestResultsWithoutIdentity(t *testing.T) {
	file := filepath.Join(t.TempDir(), "results")
	text := `{"kind":"machine","facts":["two processors"]}
{"kind":"start","link":"100mbit-30ms","image":"base","contender":"plain","round":1,"pull":4}
{"kind":"start","link":"100mbit-30ms","image":"base","contender":"rivulet","round":1,"pull":1}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := readResults([]string{file})
	if err != nil {
		t.Fatal(err)
	}
	if report := string(analyse(before).markdown(nil)); !strings.Contains(report, "two processors") || !strings.Contains(report, "0.25") {
		t.Errorf("reported is %s", report)
	}
	after := append([]result{{Kind: kindMachine, Identity: "now", Facts: []string{"two processors"}}}, before[1:]...)
	var out bytes.Buffer
	if err := gate(&out, analyse(before), analyse(after)); err != nil || !strings.Contains(out.String(), "1.00 × what it was") {
		t.Errorf("gate: %v, printed %s", err, out.String())
	}
}

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
