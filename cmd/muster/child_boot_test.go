package main

import (
	"net"
	"strings"
	"testing"

	"muster/api"
	"muster/pxe"
)

// TestBootOfHTTP: a UKI is for UEFI HTTP boot of its architecture, and for nobody else.
func TestBootOfHTTP(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	d := api.BootDecision{Answer: true, Loaders: []api.Loader{
		{BlobRef: api.BlobRef{Name: "snponly.efi", SHA256: sum}, Client: "uefi", Arch: "amd64"},
		{BlobRef: api.BlobRef{Name: "compute.efi", SHA256: sum}, Client: "http", Arch: "amd64"},
	}}
	for name, c := range map[string]struct {
		client  pxe.Client
		arch    string
		program string
	}{
		"HTTP boot":          {pxe.ClientHTTP, "amd64", "/blobs/" + sum + "/compute.efi"},
		"unknown processor":  {pxe.ClientHTTP, "", "/blobs/" + sum + "/compute.efi"},
		"HTTP boot on arm64": {pxe.ClientHTTP, "arm64", ""},
		"PXE":                {pxe.ClientUEFI, "amd64", ""},
		"iPXE":               {pxe.ClientIPXE, "amd64", ""},
	} {
		b := bootOf(d, pxe.Machine{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Client: c.client, Arch: c.arch})
		if b.Program != c.program {
			t.Errorf("%s: Program = %q, want %q", name, b.Program, c.program)
		}
		if c.arch == "amd64" && b.Loader != sum+"/snponly.efi" {
			t.Errorf("%s: Loader = %q", name, b.Loader)
		}
	}
}
