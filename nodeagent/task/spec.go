package task

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"muster/api"
)

// The files of a task's directory; doc.go says what they are for.
const (
	fileSpec    = "spec.json"
	fileLock    = "lock"
	fileStarted = "started"
	fileSocket  = "sock"
	fileEnd     = "end.json"
	fileLog     = "log"
	dirWork     = "work"
)

// spec is spec.json: what a shim must know.
type spec struct {
	Start api.TaskStart `json:"start"`
	// Init is the in-namespace init.
	Init string `json:"init"`
	// View is what the task sees.
	View View `json:"view"`
	// Cgroup is the task's group, "" for none.
	Cgroup string `json:"cgroup,omitempty"`
}

func readSpec(dir string) (spec, error) {
	var s spec
	return s, readJSON(filepath.Join(dir, fileSpec), &s)
}

// readEnd reads how a task ended. ok is false where the file is not there.
func readEnd(dir string) (ev api.TaskEvent, ok bool, err error) {
	err = readJSON(filepath.Join(dir, fileEnd), &ev)
	if errors.Is(err, os.ErrNotExist) {
		return ev, false, nil
	}
	return ev, err == nil, err
}

func readJSON(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading state of a task: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("reading state of a task: %s: %w", file, err)
	}
	return nil
}

// writeJSON replaces a file as a whole. It does not sync: tasks do not survive
// the node.
func writeJSON(file string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("writing state of a task: %w", err)
	}
	tmp := file + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("writing state of a task: %w", err)
	}
	if err := os.Rename(tmp, file); err != nil {
		return fmt.Errorf("writing state of a task: %w", err)
	}
	return nil
}
