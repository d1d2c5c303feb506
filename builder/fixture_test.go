package builder

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"muster/builder/deb/debtest"
	"muster/images"
	"muster/initramfs"
)

const dep5 = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"

const (
	oldKernel = "6.12.9+deb13-amd64"
	newKernel = "6.12.10+deb13-amd64"
)

// testArchive is a small Debian: a kernel, a newer one in the security suite, network
// boot programs and firmware.
func testArchive(t testing.TB) *debtest.Archive {
	t.Helper()
	a := debtest.NewArchive(t)
	a.Publish(t, debtest.Suite{Name: "trixie", Packages: append(kernelPackages(t, oldKernel, "6.12.9-1"),
		debtest.Package{Name: "ipxe", Version: "1.21", Arch: "all", Compression: ".xz", Files: []debtest.File{
			{Path: "usr/lib/ipxe/undionly.kpxe", Data: "bios"}, {Path: "usr/lib/ipxe/snponly.efi", Data: "uefi"}, {Path: "usr/lib/ipxe/ipxe.lkrn", Data: "other"},
			{Path: "usr/share/doc/ipxe/copyright", Data: "It is free.\n"},
		}},
		debtest.Package{Name: "firmware-realtek", Version: "2025", Arch: "all", Component: "non-free-firmware", Compression: ".xz", Files: []debtest.File{
			{Path: "lib/firmware/rtl_nic/a.fw", Data: "wanted"},
			{Path: "lib/firmware/rtl_nic/unused.fw", Data: "not wanted"},
			{Path: "lib/firmware/rtl_nic/link.fw", Link: "a.fw"},
			{Path: "usr/share/doc/x", Data: "text"},
			{Path: "usr/share/doc/firmware-realtek/copyright", Data: dep5 + "Files: *\nLicense: GPL-2+ or redist-Realtek\n\nLicense: redist-Realtek\n Take it.\n"},
		}},
	)})
	a.Publish(t, debtest.Suite{Name: "trixie-updates", ValidUntil: debtest.Time().Add(24 * time.Hour)})
	a.Publish(t, debtest.Suite{Name: "trixie-security", Packages: kernelPackages(t, newKernel, "6.12.10-1")})
	return a
}

// kernelPackages returns a kernel and its meta package.
func kernelPackages(t testing.TB, release, version string) []debtest.Package {
	t.Helper()
	dir := "usr/lib/modules/" + release + "/"
	module := func(path string, entries ...string) debtest.File {
		return debtest.File{Path: dir + "kernel/" + path + ".ko.xz", Data: string(debtest.Compress(t, ".xz", tinyModule(entries...)))}
	}
	return []debtest.Package{
		{Name: "linux-image-amd64", Version: version, Arch: "amd64", Source: "linux-signed (" + version + ")", Depends: "linux-image-" + release + " (= " + version + ")"},
		{
			Name: "linux-image-" + release, Version: version, Arch: "amd64", Source: "linux-signed (" + version + ")",
			Depends: "kmod, initramfs-tools | linux-initramfs-tool", Compression: ".xz",
			BuiltUsing: "linux (= " + version + ")",
			Files: []debtest.File{
				{Path: "usr/share/doc/linux-image-" + release + "/copyright", Data: dep5 + "Files: *\nLicense: GPL-2\n\nFiles: x\nLicense: BSD-3-clause\n"},
				{Path: "boot/vmlinuz-" + release, Data: "kernel " + release},
				{Path: "boot/config-" + release, Data: "CONFIG_MODULE_DECOMPRESS=y\nCONFIG_MODULE_COMPRESS_XZ=y\n"},
				{Path: dir + "modules.builtin", Data: "kernel/drivers/virtio/virtio_pci.ko\n"},
				{Path: dir + "modules.order", Data: "kernel/drivers/block/loop.ko\n"},
				module("drivers/block/loop", "name=loop"),
				module("fs/squashfs/squashfs", "name=squashfs", "depends=lz-helper"),
				module("lib/lz-helper", "name=lz_helper"),
				module("drivers/net/virtio_net", "name=virtio_net", "alias=virtio:d00000001v*", "depends=net_failover"),
				module("drivers/net/net_failover", "name=net_failover"),
				module("drivers/net/ethernet/acme/acme", "name=acme", "firmware=rtl_nic/a.fw", "firmware=rtl_nic/link.fw", "firmware=other/b.fw", "softdep=pre: crypto-crc9"),
				module("crypto/crc9_generic", "name=crc9_generic"),
				module("drivers/net/ethernet/netronome/nfp", "name=nfp"),
				module("sound/sound", "name=sound"),
			},
		},
	}
}

// tinyModule is the smallest ELF file with a .modinfo section.
func tinyModule(entries ...string) []byte {
	data := strings.Join(entries, "\x00") + "\x00"
	const head, section, names = 64, 64, "\x00.modinfo\x00.shstrtab\x00"
	body := []byte(data + names)
	for len(body)%8 != 0 {
		body = append(body, 0)
	}
	h := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Shoff: uint64(head + len(body)),
		Ehsize: head, Shentsize: section, Shnum: 3, Shstrndx: 2,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	var b bytes.Buffer
	for _, part := range []any{
		h, body,
		elf.Section64{},
		elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: head, Size: uint64(len(data)), Addralign: 1},
		elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(head + len(data)), Size: uint64(len(names)), Addralign: 1},
	} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

const testDefinition = `
name: test
arch: amd64
suite: trixie
kernel: {package: linux-image-amd64, cmdline: quiet}
modules: {groups: [base, virtio, ethernet]}
firmware: [realtek]
commands: [ls, sh]
files:
- {path: /etc/motd, content: "hello\n", mode: 0640, owner: 3:4}
`

// testConfig builds the definition from a in folders of its own.
func testConfig(t testing.TB, a *debtest.Archive, definition string) Config {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "test.yaml")
	if err := os.WriteFile(file, []byte(definition), 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := images.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	d.Mirror = a.Serve(t)
	return Config{
		Definition: d, Out: filepath.Join(dir, "out"), Cache: filepath.Join(dir, "cache"),
		Agent: []byte("the agent"), Init: []byte("the init"), Busybox: []byte("the busybox"),
		BusyboxInfo: &initramfs.Busybox{Commands: []string{"cat", "ls", "sh"}},
		Keyring:     a.Key.Keyring(t), Now: func() time.Time { return debtest.Time().Add(time.Hour) },
	}
}

func mustBuild(t testing.TB, cfg Config) *images.Manifest {
	t.Helper()
	m, err := Build(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// contents reads a folder.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(data)
	}
	return out
}

// records reads the initramfs in a folder, by path.
func records(t testing.TB, dir string) map[string]initramfs.Record {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "initramfs.zst"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a, err := initramfs.ReadCPIO(f)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]initramfs.Record)
	for _, r := range a.Records {
		out[r.Path] = r
	}
	return out
}
