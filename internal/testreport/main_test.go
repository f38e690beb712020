package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func feed(t *testing.T, lines string) (string, int) {
	t.Helper()
	var out strings.Builder
	r := &report{out: &out, said: map[[2]string][]string{}, failedIn: map[string]bool{}}
	for line := range strings.Lines(lines) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		r.add(&e)
	}
	status := r.end()
	return out.String(), status
}

func TestReport(t *testing.T) {
	out, status := feed(t, `{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:7: needs root: to mount\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestB"}
{"Action":"pass","Package":"p","Elapsed":1.5}
`)
	if status != 0 || !strings.Contains(out, "  p TestA: needs root: to mount\n") || !strings.Contains(out, "ok  \tp\t1.500s") || !strings.HasSuffix(out, "\n1 passed, 0 failed, 1 skipped\n") {
		t.Errorf("status %d:\n%s", status, out)
	}
	out, status = feed(t, `{"Action":"pass","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestC","Output":"    c_test.go:1: wrong\n"}
{"Action":"fail","Package":"p","Test":"TestC"}
{"Action":"fail","Package":"p"}
{"Action":"output","Package":"q","Output":"q does not build\n"}
{"Action":"fail","Package":"q"}
`)
	if status != 1 || !strings.Contains(out, "wrong") || !strings.Contains(out, "q does not build") || !strings.HasSuffix(out, "\n1 passed, 2 failed, 0 skipped\n") {
		t.Errorf("status %d:\n%s", status, out)
	}
	if _, status := feed(t, ""); status != 1 {
		t.Error("no test at all is a success")
	}
}
