package depmod_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
)

// tinyModule is the smallest ELF file that has a .modinfo section with the given
// entries.
func tinyModule(entries ...string) []byte {
	return tinyELF(".modinfo", []byte(strings.Join(entries, "\x00")+"\x00"))
}

func tinyELF(section string, data []byte) []byte {
	names := "\x00" + section + "\x00.shstrtab\x00"
	const head = 64
	nameOff := head + len(data)
	shoff := (nameOff + len(names) + 7) &^ 7
	h := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Shoff: uint64(shoff),
		Ehsize: head, Shentsize: 64, Shnum: 3, Shstrndx: 2,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	var b bytes.Buffer
	put := func(v any) { binary.Write(&b, binary.LittleEndian, v) }
	put(h)
	b.Write(data)
	b.WriteString(names)
	b.Write(make([]byte, shoff-b.Len()))
	put(elf.Section64{})
	put(elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: head, Size: uint64(len(data)), Addralign: 1})
	put(elf.Section64{Name: uint32(len(section) + 2), Type: uint32(elf.SHT_STRTAB), Off: uint64(nameOff), Size: uint64(len(names)), Addralign: 1})
	return b.Bytes()
}
