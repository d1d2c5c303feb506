package builder

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"muster/builder/hybrid"
	"muster/images"
	"muster/internal/need"
)

// BenchmarkISO writes the medium of the image in MUSTER_IMAGE once more: from files in the cache
// to a file that was read back and hashed.
func BenchmarkISO(b *testing.B) {
	dir := os.Getenv("MUSTER_IMAGE")
	need.File(b, filepath.Join(dir, manifestName), "run: make bench")
	m, err := readManifest(dir)
	if err != nil {
		b.Fatal(err)
	}
	store, err := openCache(b.TempDir(), nil)
	if err != nil {
		b.Fatal(err)
	}
	keep := func(kind images.ArtifactKind) (f initramfsFile) {
		a, _ := m.File(kind)
		data, err := os.ReadFile(filepath.Join(dir, a.Name))
		if err == nil {
			f.File, err = store.putBytes(data)
		}
		if err != nil {
			b.Fatal(err)
		}
		return f
	}
	a, ok := m.File(images.KindISO)
	if !ok {
		b.Skip("the image has no medium")
	}
	loaders := loadersOn(b, filepath.Join(dir, a.Name))
	cfg := Config{Definition: &images.Definition{Name: m.Name, Kernel: images.Kernel{Cmdline: m.Cmdline}}, Time: m.Time}
	kernel, archive := kernelFiles{Release: m.Kernel, Vmlinuz: keep(images.KindKernel).File}, keep(images.KindInitramfs)
	start := cpuTime()
	var made isoFile
	for b.Loop() {
		made, err = makeISO(cfg, store, &images.Lock{}, ids{m.ID, m.RuntimeID}, kernel, archive, loaders)
		if err != nil {
			b.Fatal(err)
		}
	}
	perWrite := (cpuTime() - start).Seconds() / float64(b.N)
	b.ReportMetric(float64(made.File.Size)/1e6, "MB")
	b.ReportMetric(perWrite, "cpu-s")
	if made.File.SHA256 != a.SHA256 {
		b.Errorf("the medium is %s, that of the image is %s", made.File.SHA256, a.SHA256)
	}
}

// loadersOn returns the boot loaders on a medium, as fetchMediumFiles does.
func loadersOn(b *testing.B, name string) map[string][]byte {
	b.Helper()
	f, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	im, err := hybrid.Open(f, fi.Size())
	if err != nil {
		b.Fatal(err)
	}
	loaders := make(map[string][]byte)
	for _, to := range mediumFiles() {
		data, ok := im.ESP[to]
		switch {
		case ok:
		case to == isohybridMBR:
			data = make([]byte, 432)
			_, err = f.ReadAt(data, 0)
		default:
			data, err = mediumData(im, to, 16<<20)
		}
		if err != nil {
			b.Fatal(err)
		}
		if to == mediumBoot {
			clear(data[bootInfo.from:bootInfo.to])
		}
		loaders[to] = data
	}
	return loaders
}

// BenchmarkRebuild builds compute-vm again after what people change: nothing, the agent, a file.
// The cache is that of the user.
func BenchmarkRebuild(b *testing.B) {
	bin := need.File(b, os.Getenv("MUSTER_BIN"), "run: make bench")
	bin, err := filepath.Abs(bin)
	if err != nil {
		b.Fatal(err)
	}
	cache := linkedCache(b)
	dir := b.TempDir()
	build := func(b *testing.B, name, out string) cost {
		b.Helper()
		cmd := exec.Command(bin, "build", name, "--cache", cache, "--output", filepath.Join(dir, out), "--lock", filepath.Join(dir, "lock.json"))
		wall := timed(b, cmd)
		return cost{wall, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	}
	build(b, "compute-vm", "out")
	// Of a machine that others use too, the CPU time counts.
	// goal reports what a build took beside what it ought to.
	goal := func(b *testing.B, took cost, want float64) {
		b.ReportMetric(took.wall.Seconds()/float64(b.N), "s")
		b.ReportMetric(took.cpu.Seconds()/float64(b.N), "cpu-s")
		b.ReportMetric(want, "s-goal")
	}
	b.Run("unchanged", func(b *testing.B) {
		var took cost
		for b.Loop() {
			took = took.plus(build(b, "compute-vm", "out"))
		}
		goal(b, took, 1)
	})
	b.Run("file", func(b *testing.B) {
		var took cost
		for b.Loop() {
			name := filepath.Join(dir, "site.yaml")
			text := fmt.Sprintf("name: site\nfrom: compute-vm\nfiles:\n- {path: /etc/motd, content: %q}\n", rand.Text())
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				b.Fatal(err)
			}
			took = took.plus(build(b, name, "site"))
		}
		goal(b, took, 3)
	})
	b.Run("agent", func(b *testing.B) {
		cfg := realConfig(b, "compute-vm")
		cfg.Cache, cfg.Out, cfg.LockFile = cache, filepath.Join(dir, "agent"), filepath.Join(dir, "lock.json")
		var compile time.Duration
		var took cost
		for b.Loop() {
			agent := filepath.Join(dir, "muster-agent")
			cmd := exec.Command(need.Program(b, "go", "golang"), "build", "-trimpath", "-ldflags", "-s -w -X main.version="+rand.Text(), "-o", agent, "../cmd/muster-agent")
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			compile += timed(b, cmd)
			data, err := os.ReadFile(agent)
			if err != nil {
				b.Fatal(err)
			}
			if bytes.Equal(data, cfg.Agent) {
				b.Fatal("the agent is that of the build before")
			}
			cfg.Agent = data
			start, cpu := time.Now(), cpuTime()
			mustBuild(b, cfg)
			took = took.plus(cost{time.Since(start), cpuTime() - cpu})
		}
		b.ReportMetric(compile.Seconds()/float64(b.N), "s/go-build")
		goal(b, took, 2)
	})
}

// cost is what a build took.
type cost struct{ wall, cpu time.Duration }

func (c cost) plus(d cost) cost { return cost{c.wall + d.wall, c.cpu + d.cpu} }

// realConfig is that of a definition that is shipped, with the programs that make built.
func realConfig(b *testing.B, name string) Config {
	b.Helper()
	def, err := images.Load(name)
	if err != nil {
		b.Fatal(err)
	}
	cfg := Config{Definition: def, Host: os.DirFS("/")}
	cfg.Busybox, cfg.BusyboxInfo = payloadBusybox(b)
	for name, to := range map[string]*[]byte{"muster-agent": &cfg.Agent, "muster-init": &cfg.Init} {
		packed, err := os.ReadFile("../cmd/muster/payload/" + name + ".zst")
		if err != nil {
			need.Missing(b, "%v; run make", err)
		}
		*to = unpackZstd(b, packed)
	}
	return cfg
}

// linkedCache is a cache with what that of the user has, which nothing is added to.
func linkedCache(b *testing.B) string {
	b.Helper()
	user, err := CacheDir(os.Getenv)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.MkdirAll(user, 0o755); err != nil {
		b.Fatal(err)
	}
	dir, err := os.MkdirTemp(user, "bench-*") // beside the files, since only there they can be linked
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	for _, sub := range []string{"blobs/sha256", "steps", "packed"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			b.Fatal(err)
		}
		err := filepath.WalkDir(filepath.Join(user, sub), func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			return os.Link(p, filepath.Join(dir, sub, d.Name()))
		})
		if err != nil && !os.IsNotExist(err) {
			b.Fatal(err)
		}
	}
	return dir
}
