package openfiles

import (
	"os"
	"testing"
)

func TestCount(t *testing.T) {
	before := In(t)
	var list []*os.File
	for range 10 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, f)
	}
	if n := In(t); n != before+len(list) {
		t.Errorf("%d are open, want %d more than %d", n, len(list), before)
	}
	for _, f := range list {
		_ = f.Close()
	}
	if n := In(t); n != before {
		t.Errorf("%d are open, want %d as before", n, before)
	}
}
