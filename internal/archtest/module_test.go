package archtest

import (
	"debug/elf"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// root is the root of the module, seen from this package's folder.
const root = "../.."

// maxAgent is how large the agent's file may get: every node reads it into
// memory at boot.
const maxAgent = 9 << 20

func moduleFiles(t *testing.T) []source {
	t.Helper()
	files, err := load(os.DirFS(root))
	if err != nil {
		t.Fatalf("reading the sources of the module: %v", err)
	}
	if len(files) < 10 {
		t.Fatalf("found %d source files in %s; is that the root of the module?", len(files), root)
	}
	return files
}

func report(t *testing.T, bad []string) {
	t.Helper()
	for _, b := range bad {
		t.Error(b)
	}
}

func TestImports(t *testing.T) { report(t, checkImports(moduleFiles(t))) }
func TestDocs(t *testing.T)    { report(t, checkDocs(moduleFiles(t))) }
func TestNoState(t *testing.T) { report(t, checkState(moduleFiles(t))) }
func TestAgentLinks(t *testing.T) {
	report(t, checkLinked(moduleFiles(t), "cmd/muster-agent", agentExternal))
}

func TestArchitectureNamesRealFiles(t *testing.T) {
	for _, document := range []string{"docs/architecture.md", "docs/boot.md"} {
		bad, err := checkPaths(os.DirFS(root), document)
		if errors.Is(err, fs.ErrNotExist) {
			t.Logf("%s is not written yet", document)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		report(t, bad)
	}
}

// TestAgentSize builds the agent as make does and looks at the file.
func TestAgentSize(t *testing.T) {
	moduleFiles(t) // the test cache then knows what the build reads
	file := filepath.Join(t.TempDir(), "muster-agent")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", file, "./cmd/muster-agent")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the agent: %v\n%s", err, out)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("agent: %.2f MB", float64(info.Size())/1e6)
	if info.Size() > maxAgent {
		t.Errorf("the agent has %d bytes, may have %d", info.Size(), maxAgent)
	}
	binary, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	for _, p := range binary.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the agent is linked dynamically; a node has no libraries for it")
		}
	}
}
