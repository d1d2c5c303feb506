package debtest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
	"testing"
	"time"
)

// copyrightHead begins a copyright file that machines can read.
const copyrightHead = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"

// Small returns a small Debian 13: a kernel, a newer one in the security suite, network
// boot programs and firmware of Realtek. The kernels are given by their release, such as
// 6.12.9+deb13-amd64, whose packages have version 6.12.9-1.
func Small(t testing.TB, oldKernel, newKernel string, more ...Package) *Archive {
	t.Helper()
	a := NewArchive(t)
	more = append(more,
		Package{Name: "ipxe", Version: "1.21", Arch: "all", Compression: ".xz", Files: []File{
			{Path: "usr/lib/ipxe/undionly.kpxe", Data: "bios"},
			{Path: "usr/lib/ipxe/snponly.efi", Data: "uefi"},
			{Path: "usr/lib/ipxe/ipxe.lkrn", Data: "other"},
			{Path: "usr/share/doc/ipxe/copyright", Data: "It is free.\n"},
		}},
		Package{Name: "firmware-realtek", Version: "2025", Arch: "all", Component: "non-free-firmware", Compression: ".xz", Files: []File{
			{Path: "lib/firmware/rtl_nic/a.fw", Data: "wanted"},
			{Path: "lib/firmware/rtl_nic/unused.fw", Data: "not wanted"},
			{Path: "lib/firmware/rtl_nic/link.fw", Link: "a.fw"},
			{Path: "usr/share/doc/x", Data: "text"},
			{Path: "usr/share/doc/firmware-realtek/copyright", Data: copyrightHead + "Files: *\nLicense: GPL-2+ or redist-Realtek\n\nLicense: redist-Realtek\n Take it.\n"},
		}},
	)
	a.Publish(t, Suite{Name: "trixie", Packages: append(Kernel(t, "linux-image-amd64", oldKernel, versionOf(oldKernel)), more...)})
	a.Publish(t, Suite{Name: "trixie-updates", ValidUntil: Time().Add(24 * time.Hour)})
	a.Publish(t, Suite{Name: "trixie-security", Packages: Kernel(t, "linux-image-amd64", newKernel, versionOf(newKernel))})
	return a
}

func versionOf(kernel string) string {
	version, _, _ := strings.Cut(kernel, "+")
	return version + "-1"
}

// Programs returns packages of those names, each with one program.
func Programs(names ...string) []Package {
	var out []Package
	for _, name := range names {
		out = append(out, Package{Name: name, Version: "1", Arch: "amd64", Files: []File{
			{Path: "usr/bin/" + name, Data: name}, {Path: "usr/share/doc/" + name + "/copyright", Data: copyrightHead + "Files: *\nLicense: GPL-2+\n"},
		}})
	}
	return out
}

// Kernel returns a kernel and the meta package that names it.
func Kernel(t testing.TB, meta, release, version string) []Package {
	t.Helper()
	dir := "usr/lib/modules/" + release + "/"
	module := func(path string, entries ...string) File {
		return File{Path: dir + "kernel/" + path + ".ko.xz", Data: string(Compress(t, ".xz", Module(entries...)))}
	}
	return []Package{
		{Name: meta, Version: version, Arch: "amd64", Source: "linux-signed (" + version + ")", Depends: "linux-image-" + release + " (= " + version + ")"},
		{
			Name: "linux-image-" + release, Version: version, Arch: "amd64", Source: "linux-signed (" + version + ")",
			Depends: "kmod, initramfs-tools | linux-initramfs-tool", Compression: ".xz",
			BuiltUsing: "linux (= " + version + ")",
			Files: []File{
				{Path: "usr/share/doc/linux-image-" + release + "/copyright", Data: copyrightHead + "Files: *\nLicense: GPL-2\n\nFiles: x\nLicense: BSD-3-clause\n"},
				{Path: "boot/vmlinuz-" + release, Data: "kernel " + release},
				{Path: "boot/config-" + release, Data: "CONFIG_MODULE_DECOMPRESS=y\nCONFIG_MODULE_COMPRESS_XZ=y\n"},
				{Path: dir + "modules.builtin", Data: "kernel/drivers/virtio/virtio_pci.ko\n"},
				{Path: dir + "modules.order", Data: "kernel/drivers/block/loop.ko\n"},
				module("drivers/block/loop", "name=loop", "parm=max_loop:Maximum number of loop devices", "parm=max_part:Maximum", "parmtype=max_part:int"),
				module("fs/squashfs/squashfs", "name=squashfs", "depends=lz-helper"),
				module("lib/lz-helper", "name=lz_helper"),
				module("drivers/net/virtio_net", "name=virtio_net", "alias=virtio:d00000001v*", "depends=net_failover"),
				module("drivers/net/net_failover", "name=net_failover"),
				module("drivers/net/ethernet/acme/acme", "name=acme", "firmware=rtl_nic/a.fw", "firmware=rtl_nic/link.fw", "firmware=other/b.fw", "softdep=pre: crypto-crc9"),
				module("crypto/crc9_generic", "name=crc9_generic"),
				module("drivers/net/ethernet/netronome/nfp", "name=nfp"),
				module("sound/sound", "name=sound"),
				module("drivers/net/dummy", "name=dummy"),
			},
		},
	}
}

// Module returns the smallest ELF file with a .modinfo section.
func Module(entries ...string) []byte {
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
