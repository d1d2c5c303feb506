// Command mkpayload builds the programs that every image carries (the agent,
// the in-namespace init, the demo's program) and writes them, compressed,
// into the folder that muster embeds. A file whose content would not change
// is not touched, so that make and the Go build cache see no difference.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

// programs maps the payload's file names to the packages they are built from.
var programs = []struct{ name, pkg string }{
	{"muster-agent", "./cmd/muster-agent"},
	{"muster-init", "./cmd/muster-init"},
	{"demo-prime", "./internal/demoprime"},
}

func main() {
	out := flag.String("o", "cmd/muster/payload", "folder to write to")
	arch := flag.String("arch", "amd64", "architecture of the nodes")
	flag.Parse()
	if err := run(*out, *arch); err != nil {
		fmt.Fprintln(os.Stderr, "mkpayload: error:", err)
		os.Exit(1)
	}
}

func run(out, arch string) error {
	tmp, err := os.MkdirTemp("", "mkpayload")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for _, p := range programs {
		bin := filepath.Join(tmp, p.name)
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", bin, p.pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOFLAGS=")
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("building %s: %w", p.pkg, err)
		}
		if err := pack(bin, filepath.Join(out, p.name+".zst")); err != nil {
			return fmt.Errorf("packing %s: %w", p.name, err)
		}
	}
	return nil
}

// pack compresses the file bin to dst unless dst holds just that already.
func pack(bin, dst string) error {
	raw, err := os.ReadFile(bin)
	if err != nil {
		return err
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	packed := enc.EncodeAll(raw, nil)
	old, err := os.ReadFile(dst)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if bytes.Equal(old, packed) {
		return nil
	}
	tmp := dst + ".tmp"
	if err := os.WriteFile(tmp, packed, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, dst)
}
