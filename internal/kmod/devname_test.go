package kmod_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/internal/kmod"
)

func TestNodes(t *testing.T) {
	t.Parallel()
	var aliases []kmod.Alias
	for _, a := range [][2]string{
		{"tun", "devname:net/tun"},
		{"tun", "char-major-10-200"},
		{"loop", "block-major-7-*"},
		{"loop", "char-major-10-237"},
		{"loop", "devname:loop-control"},
		{"sg", "char-major-21-*"},           // any minor: no node
		{"fuse", "devname:fuse"},            // no number: no node
		{"rtc", "char-major-10-135"},        // no name: no node
		{"odd", "char-major-x-1"},           // no number
		{"odd", "char-major-99999999999-1"}, // too large
		{"odd", "devname:odd"},
		{"blk", "block-major-43-0"},
		{"blk", "devname:nbd0"},
	} {
		aliases = append(aliases, kmod.Alias{Pattern: a[1], Module: a[0]})
	}
	got := kmod.New(kmod.Contents{Aliases: aliases}).Nodes()
	want := []kmod.Node{
		{Name: "net/tun", Major: 10, Minor: 200, Module: "tun"},
		{Name: "loop-control", Major: 10, Minor: 237, Module: "loop"},
		{Name: "nbd0", Block: true, Major: 43, Module: "blk"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Nodes() (-want +got):\n%s", diff)
	}
}
