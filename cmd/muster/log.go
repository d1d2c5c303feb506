package main

import (
	"io"
	"log/slog"
)

// newLogger writes one line a message. Times are left out where a service
// manager adds them.
func newLogger(w io.Writer, verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}
