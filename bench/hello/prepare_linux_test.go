package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/random"
)

// TestStep: what was made stays until the image or its maker is another one.
func TestStep(t *testing.T) {
	b := &bench{dir: t.TempDir()}
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	build := func(text string) {
		if err := os.WriteFile(filepath.Join(bin, "maker"), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	build("one")
	if err := addToLayout(b.layout("x"), empty.Image, "x"); err != nil {
		t.Fatal(err)
	}
	done := 0
	step := func(program string, want int) {
		t.Helper()
		if err := b.step("make-with-"+program, "x", program, func() error { done++; return nil }); err != nil {
			t.Fatal(err)
		}
		if done != want {
			t.Errorf("done %d times, want %d", done, want)
		}
	}
	step("maker", 1)
	step("maker", 1)
	build("two")
	step("maker", 2)
	step("", 3)
	step("", 3)
	other, err := random.Image(10, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := addToLayout(b.layout("x"), other, "x"); err != nil {
		t.Fatal(err)
	}
	step("maker", 4)
	step("", 5)
	if err := b.step("fail", "x", "no-such-program", func() error { return nil }); err == nil {
		t.Error("a step without its program is done")
	}
}
