package kmod

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// PackFile is where a folder of index files says what a [Pack] has.
const PackFile = "modules.pack"

// Pack says where in one file, that may lie on another machine, each module is. A node that
// has the index of all modules of its kernel but not the modules gets just those that it
// loads.
type Pack struct {
	SHA256 string // of the whole file
	Size   int64
	Pieces map[string]Piece // by path, as [Module] has it
}

// Piece is the part of a [Pack] that is one module.
type Piece struct {
	Offset, Size int64
	SHA256       string
}

// maxPiece bounds what a node reads into memory for one module.
const maxPiece = 64 << 20

// Encode returns the text of a pack: a line with size and hash of the file, then one with
// offset, size, hash and path of every module, by offset.
func (p *Pack) Encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d %s\n", p.Size, p.SHA256)
	paths := make([]string, 0, len(p.Pieces))
	for name := range p.Pieces {
		paths = append(paths, name)
	}
	slices.SortFunc(paths, func(x, y string) int {
		return cmp.Or(cmp.Compare(p.Pieces[x].Offset, p.Pieces[y].Offset), cmp.Compare(x, y))
	})
	for _, name := range paths {
		q := p.Pieces[name]
		fmt.Fprintf(&b, "%d %d %s %s\n", q.Offset, q.Size, q.SHA256, name)
	}
	return b.Bytes()
}

func isSHA256(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// ParsePack reads what [Pack.Encode] writes, and checks that every module lies in
// the file and has a path below its root.
func ParsePack(text []byte) (*Pack, error) {
	p := &Pack{Pieces: make(map[string]Piece)}
	s := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; s.Scan(); n++ {
		bad := fmt.Errorf("%s:%d: %.200q is no line of it", PackFile, n, s.Text())
		if n == 1 {
			size, sum, _ := strings.Cut(s.Text(), " ")
			var err error
			if p.Size, err = strconv.ParseInt(size, 10, 64); err != nil || p.Size < 0 || !isSHA256(sum) {
				return nil, bad
			}
			p.SHA256 = sum
			continue
		}
		f := strings.SplitN(s.Text(), " ", 4)
		if len(f) != 4 {
			return nil, bad
		}
		var q Piece
		var err1, err2 error
		q.Offset, err1 = strconv.ParseInt(f[0], 10, 64)
		q.Size, err2 = strconv.ParseInt(f[1], 10, 64)
		q.SHA256 = f[2]
		if err1 != nil || err2 != nil || q.Offset < 0 || q.Size <= 0 || q.Size > maxPiece || q.Offset > p.Size-q.Size ||
			!isSHA256(q.SHA256) || f[3] != path.Clean(f[3]) || path.IsAbs(f[3]) || strings.HasPrefix(f[3], "..") || f[3] == "." {
			return nil, bad
		}
		p.Pieces[f[3]] = q
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", PackFile, err)
	}
	if p.SHA256 == "" {
		return nil, fmt.Errorf("%s is empty", PackFile)
	}
	return p, nil
}
