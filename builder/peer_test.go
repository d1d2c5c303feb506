package builder

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"muster/internal/need"
)

// BenchmarkBuildAndURoot compares `muster build` of an image that is shipped, from an empty
// cache with all that it downloads, with `u-root core boot`, which makes an
// initramfs without a kernel, in CPU seconds of all processes. u-root is built,
// and its modules are downloaded, beforehand; its Go build cache is warm. Then the
// same image is built again with nothing to do.
func BenchmarkBuildAndURoot(b *testing.B) {
	if os.Getenv("MUSTER_NET") == "" {
		b.Skip("MUSTER_NET=1 lets it use the package archives")
	}
	bin := need.File(b, os.Getenv("MUSTER_BIN"), "run: make bench-long")
	uroot := prepareURoot(b)
	uroot(b) // its packages are compiled
	for _, image := range []string{"compute-vm", "compute"} {
		b.Run(image, func(b *testing.B) {
			var cold, peer, wall, again time.Duration
			for b.Loop() {
				dir := b.TempDir()
				build := func() (cpu, took time.Duration) {
					cmd := exec.Command(bin, "build", image, "--output", filepath.Join(dir, "out"))
					cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+filepath.Join(dir, "cache"))
					took = timed(b, cmd)
					return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), took
				}
				cpu, took := build()
				cold, wall = cold+cpu, wall+took
				_, took = build()
				again += took
				peer += uroot(b)
			}
			n := float64(b.N)
			b.ReportMetric(cold.Seconds()/n, "cpu-s/cold")
			b.ReportMetric(wall.Seconds()/n, "s/cold")
			b.ReportMetric(again.Seconds()/n, "s/unchanged")
			b.ReportMetric(peer.Seconds()/n, "cpu-s/u-root")
			b.ReportMetric(cold.Seconds()/peer.Seconds(), "ratio")
		})
	}
}

// prepareURoot builds u-root of the version that go.mod names, from a copy of
// its source, and returns how to run it: `u-root core boot`, and the CPU time
// that took.
func prepareURoot(b *testing.B) func(b *testing.B) time.Duration {
	b.Helper()
	const module = "github.com/u-root/u-root"
	goTool := need.Program(b, "go", "golang")
	out, err := exec.Command(goTool, "list", "-m", "-f", "{{.Dir}} {{.Version}}", module).Output()
	if err != nil {
		b.Fatalf("finding the source of u-root: %v", err)
	}
	source, version, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	dir := b.TempDir()
	tree, program := filepath.Join(dir, "source"), filepath.Join(dir, "u-root")
	if err := os.CopyFS(tree, os.DirFS(source)); err != nil {
		b.Fatal(err)
	}
	for _, args := range [][]string{{"build", "-o", program, "."}, {"mod", "download"}} {
		cmd := exec.Command(goTool, args...)
		cmd.Dir = tree
		timed(b, cmd)
	}
	b.Logf("compared with u-root %s core boot", version)
	return func(b *testing.B) time.Duration {
		b.Helper()
		cmd := exec.Command(program, "-o", filepath.Join(dir, "initramfs.cpio"), "core", "boot")
		cmd.Dir, cmd.Env = tree, append(os.Environ(), "TMPDIR="+dir)
		timed(b, cmd)
		return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
}

// timed runs a command to its end, which must be a good one.
func timed(b *testing.B, cmd *exec.Cmd) time.Duration {
	b.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatalf("%v: %v\n%s", cmd.Args, err, out.String())
	}
	return time.Since(start)
}
