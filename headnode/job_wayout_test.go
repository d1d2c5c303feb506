package headnode

import (
	"strings"
	"testing"
)

func TestWayOut(t *testing.T) {
	for text, want := range map[string]string{
		"gfortran: command not found on this node":                                                        `Debian's package gfortran has it: add "- gfortran" under packages:`,
		"our-tool: command not found on this node":                                                        "add the Debian package that has it under packages:",
		"./x: it needs /usr/bin/python3, which this node does not have; send a statically linked program": `add "- python3" under packages:`,
		"./x: it needs /lib/ld-musl-x86_64.so.1, which this node does not have":                           "add the Debian package that has it",
		"library libgfortran.so.5 is not in the node's userland":                                          `add "- libgfortran5" under packages:`,
		"library libours.so.1 is not in the node's userland":                                              "link the program statically",
	} {
		if got := wayOut(text); !strings.HasPrefix(got, text+"; ") || !strings.Contains(got, want) {
			t.Errorf("wayOut(%q) = %q, want %q in it", text, got, want)
		}
	}
	for _, text := range []string{"", "./x: it is a directory", "out of memory: it needs more than the 64 MiB of --mem"} {
		if got := wayOut(text); got != text {
			t.Errorf("wayOut(%q) = %q", text, got)
		}
	}
}
