package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"muster/internal/netnstest"
)

// The scripts run the real program, in the network namespace of the tests.
func TestMain(m *testing.M) {
	if os.Getenv("MUSTER_TEST_AS_PROGRAM") != "" {
		os.Exit(mainStatus())
	}
	netnstest.Main(m)
}

// TestScripts runs testdata/script: muster as its users call it.
func TestScripts(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE_GOLDEN") != "",
		Setup: func(env *testscript.Env) error {
			if err := os.Mkdir(env.WorkDir+"/bin", 0o755); err != nil {
				return err
			}
			program := "#!/bin/sh\nMUSTER_TEST_AS_PROGRAM=1 exec " + self + " \"$@\"\n"
			if err := os.WriteFile(env.WorkDir+"/bin/muster", []byte(program), 0o755); err != nil {
				return err
			}
			env.Setenv("PATH", env.WorkDir+"/bin:"+os.Getenv("PATH"))
			env.Setenv("XDG_STATE_HOME", env.WorkDir+"/state")
			env.Setenv("XDG_CACHE_HOME", env.WorkDir+"/cache")
			return nil
		},
	})
}
