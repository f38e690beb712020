package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"rivulet": main})
}

// TestScripts runs the command lines of testdata/script, each in a folder and
// with a store of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("RIVULET_STORE", "dir:"+e.WorkDir+"/store")
			e.Setenv("XDG_RUNTIME_DIR", e.WorkDir+"/run")
			e.Setenv("TMPDIR", e.WorkDir)
			return nil
		},
	})
}
