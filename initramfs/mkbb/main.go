// Command mkbb builds the busybox of u-root commands that muster carries.
//
// Synopsis:
//
//	go run ./initramfs/mkbb [-out FOLDER] [-force]
//
// It is run in the module's root folder and writes bb.zst (the binary) and
// bb.json (what is in it) to FOLDER. Nothing is done where they are as they would
// become.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"muster/initramfs"
	"muster/initramfs/bb"
)

func main() {
	out := flag.String("out", "cmd/muster/payload", "`folder` to write bb.zst and bb.json to")
	force := flag.Bool("force", false, "build also if nothing changed")
	verbose := flag.Bool("v", false, "say what gobusybox says")
	flag.Parse()
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *out, *force, log); err != nil {
		fmt.Fprintf(os.Stderr, "mkbb: error: %v\n", err)
		os.Exit(1)
	}
}

// result is bb.json.
type result struct {
	initramfs.Busybox
	Packed string `json:"zst_sha256"` // of bb.zst
	Inputs string `json:"inputs"`     // stamp of what it was built from
}

func run(ctx context.Context, out string, force bool, log *slog.Logger) error {
	cfg := bb.Config{Dir: ".", Commands: initramfs.BusyboxCommands(), Log: log}
	stamp, err := bb.Stamp(ctx, cfg)
	if err != nil {
		return err
	}
	zst, meta := filepath.Join(out, "bb.zst"), filepath.Join(out, "bb.json")
	if !force && current(zst, meta, stamp) {
		log.Info("busybox is up to date", "file", zst)
		return nil
	}
	start := time.Now()
	bin, info, err := bb.Build(ctx, cfg)
	if err != nil {
		return err
	}
	packed, err := writePacked(zst, bin)
	if err != nil {
		return fmt.Errorf("writing %s: %w", zst, err)
	}
	text, err := json.MarshalIndent(result{info, packed, stamp}, "", "\t")
	if err != nil {
		return err
	}
	if err := writeFile(meta, append(text, '\n')); err != nil {
		return fmt.Errorf("writing %s: %w", meta, err)
	}
	log.Info("busybox built", "file", zst, "commands", len(info.Commands), "size", info.Size, "dur", time.Since(start).Round(time.Millisecond))
	return nil
}

// current says whether the files are whole and of the inputs that stamp stands for.
func current(zst, meta, stamp string) bool {
	text, err := os.ReadFile(meta)
	if err != nil {
		return false
	}
	var old result
	if json.Unmarshal(text, &old) != nil || old.Inputs != stamp {
		return false
	}
	f, err := os.Open(zst)
	if err != nil {
		return false
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return err == nil && hex.EncodeToString(h.Sum(nil)) == old.Packed
}

// writePacked writes bin compressed and returns the hash of the file.
func writePacked(name string, bin []byte) (string, error) {
	h := sha256.New()
	err := writeTo(name, func(w io.Writer) error {
		return initramfs.WriteCompressed(io.MultiWriter(w, h), initramfs.ZstdBest, func(w io.Writer) error {
			_, err := w.Write(bin)
			return err
		})
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

func writeFile(name string, data []byte) error {
	return writeTo(name, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// writeTo writes a file beside name and renames it, so that name is never half
// written.
func writeTo(name string, write func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".mkbb-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
