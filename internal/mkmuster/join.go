package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

const pageSize = 4096

// join returns an executable that is two: front when the first argument is verb, full else. Nothing of
// the one is touched when the other runs: the kernel maps both and begins with a few
// instructions (choose) that jump to the one or the other as if the kernel had.
//
// Both must be static programs for amd64 with fixed addresses that do not overlap. verb has 1 to 3 letters.
func join(full, front []byte, verb string) ([]byte, error) {
	if len(verb) < 1 || len(verb) > 3 {
		return nil, fmt.Errorf("verb %q must have 1 to 3 letters", verb)
	}
	var programs [2]elf.Header64
	var segments []elf.Prog64
	for i, raw := range [][]byte{full, front} {
		h, list, err := read(raw)
		if err != nil {
			return nil, fmt.Errorf("reading program %d: %w", i+1, err)
		}
		programs[i] = h
		for _, p := range list {
			switch elf.ProgType(p.Type) {
			case elf.PT_LOAD:
			case elf.PT_PHDR, elf.PT_TLS: // for loaders and C libraries, of which there are none
				continue
			default:
				if i > 0 {
					continue // the notes and the stack are those of full
				}
			}
			if i > 0 {
				p.Off += aligned(len(full))
			}
			segments = append(segments, p)
		}
	}
	out := pad(slices.Clone(full))
	out = pad(append(out, front...))
	start := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Align: pageSize,
		Off: uint64(len(out)), Vaddr: aligned(int(end(segments))) + pageSize,
	}
	start.Paddr = start.Vaddr
	code := choose(verb, programs[0].Entry, programs[1].Entry)
	start.Filesz, start.Memsz = uint64(len(code)), uint64(len(code))
	out = pad(append(out, code...))
	segments = append(segments, start)

	// The kernel wants them in the order of their addresses.
	slices.SortStableFunc(segments, func(a, b elf.Prog64) int {
		aLoad, bLoad := a.Type == uint32(elf.PT_LOAD), b.Type == uint32(elf.PT_LOAD)
		switch {
		case aLoad && bLoad && a.Vaddr < b.Vaddr, bLoad && !aLoad:
			return -1
		case aLoad && bLoad && a.Vaddr > b.Vaddr, aLoad && !bLoad:
			return 1
		}
		return 0
	})
	if err := overlap(segments); err != nil {
		return nil, err
	}
	h := programs[0]
	h.Entry, h.Phoff, h.Phnum = start.Vaddr, uint64(len(out)), uint16(len(segments))
	var b bytes.Buffer
	if err := errors.Join(binary.Write(&b, binary.LittleEndian, h), binary.Write(&b, binary.LittleEndian, segments)); err != nil {
		return nil, err
	}
	head := binary.Size(h)
	copy(out, b.Bytes()[:head])
	return append(out, b.Bytes()[head:]...), nil
}

// read returns the header of a program and what of it is mapped.
func read(raw []byte) (h elf.Header64, list []elf.Prog64, err error) {
	r := bytes.NewReader(raw)
	if err := binary.Read(r, binary.LittleEndian, &h); err != nil {
		return h, nil, err
	}
	if string(h.Ident[:4]) != elf.ELFMAG || h.Type != uint16(elf.ET_EXEC) || h.Machine != uint16(elf.EM_X86_64) {
		return h, nil, errors.New("it is no program for amd64 with a fixed address")
	}
	if _, err := r.Seek(int64(h.Phoff), 0); err != nil {
		return h, nil, err
	}
	list = make([]elf.Prog64, h.Phnum)
	if err := binary.Read(r, binary.LittleEndian, list); err != nil {
		return h, nil, err
	}
	for _, p := range list {
		if p.Type == uint32(elf.PT_INTERP) || p.Type == uint32(elf.PT_DYNAMIC) {
			return h, nil, errors.New("it is not static")
		}
	}
	return h, list, nil
}

// overlap is the error of segments, in order, that do not fit beside each other.
func overlap(segments []elf.Prog64) error {
	var last uint64
	for _, p := range segments {
		if p.Type != uint32(elf.PT_LOAD) {
			continue
		}
		if p.Vaddr < last {
			return fmt.Errorf("what is mapped at %#x overlaps what ends at %#x", p.Vaddr, last)
		}
		last = aligned(int(p.Vaddr + p.Memsz))
	}
	return nil
}

func end(segments []elf.Prog64) (last uint64) {
	for _, p := range segments {
		if p.Type == uint32(elf.PT_LOAD) {
			last = max(last, p.Vaddr+p.Memsz)
		}
	}
	return last
}

func aligned(n int) uint64 { return uint64(n+pageSize-1) / pageSize * pageSize }

func pad(b []byte) []byte { return append(b, make([]byte, int(aligned(len(b)))-len(b))...) }

// choose is the code that runs first. The kernel has put the number of arguments on the stack and their
// addresses above it (System V ABI, AMD64 supplement, 3.4.1). After an argument there is always more of
// the stack, so that four bytes of it can be read. Stack and memory stay as they were.
func choose(verb string, full, front uint64) []byte {
	var word [4]byte // with the zero byte that ends it
	copy(word[:], verb)
	mask := uint32(1<<(8*(len(verb)+1)) - 1)
	if len(verb) == 3 {
		mask = ^uint32(0)
	}
	var b []byte
	le32 := binary.LittleEndian.AppendUint32
	le64 := binary.LittleEndian.AppendUint64
	b = le64(append(b, 0x48, 0xb8), full)                                // mov rax, full
	b = append(b, 0x48, 0x83, 0x3c, 0x24, 0x02)                          // cmp qword [rsp], 2
	b = append(b, 0x72, 0)                                               // jb go
	toGo := len(b)                                                       //
	b = append(b, 0x48, 0x8b, 0x4c, 0x24, 0x10)                          // mov rcx, [rsp+16]
	b = append(b, 0x8b, 0x09)                                            // mov ecx, [rcx]
	b = le32(append(b, 0x81, 0xe1), mask)                                // and ecx, mask
	b = le32(append(b, 0x81, 0xf9), binary.LittleEndian.Uint32(word[:])) // cmp ecx, word
	b = append(b, 0x75, 10)                                              // jne go
	b = le64(append(b, 0x48, 0xb8), front)                               // mov rax, front
	b[toGo-1] = byte(len(b) - toGo)
	return append(b, 0xff, 0xe0) // go: jmp rax
}
