package main

import (
	"path/filepath"
	"testing"

	"github.com/rivuletfs/rivulet/host"
)

// TestAbsolutePaths has an agent in another folder listen, and find files, where
// the user of serve means.
func TestAbsolutePaths(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	specs := []host.Spec{
		{Where: "unix:nbd.sock", TLS: &host.TLS{Certificate: "c.pem", Key: "/k.pem"}},
		{Where: "tcp:127.0.0.1:0"},
		{Where: "unix:@abstract"},
	}
	if err := absolutePaths(specs); err != nil {
		t.Fatal(err)
	}
	if want := (host.TLS{Certificate: filepath.Join(dir, "c.pem"), Key: "/k.pem"}); *specs[0].TLS != want {
		t.Errorf("TLS files %+v, want %+v", *specs[0].TLS, want)
	}
	for i, want := range []string{"unix:" + filepath.Join(dir, "nbd.sock"), "tcp:127.0.0.1:0", "unix:@abstract"} {
		if specs[i].Where != want {
			t.Errorf("at %q, want %q", specs[i].Where, want)
		}
	}
}
