package deb

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Source is one entry of apt's sources: where to find which suites.
type Source struct {
	URIs   []string
	Suites []string
}

// maxSources bounds what is read of one file.
const maxSources = 1 << 20

// HostSources reads apt's sources from fsys, whose root is the root of a
// host. Files that cannot be read or understood are left out: they are a hint
// where a mirror may be, no more. Only http and https sources of binary packages
// are returned, in apt's order.
func HostSources(fsys fs.FS) []Source {
	names := []string{"etc/apt/sources.list"}
	dir := "etc/apt/sources.list.d"
	entries, err := fs.ReadDir(fsys, dir)
	if err == nil {
		for _, e := range entries {
			names = append(names, path.Join(dir, e.Name()))
		}
	}
	var out []Source
	for _, name := range names {
		text, err := readSome(fsys, name)
		if err != nil {
			continue
		}
		switch path.Ext(name) {
		case ".list":
			out = append(out, parseList(text)...)
		case ".sources":
			out = append(out, parseSources(text)...)
		}
	}
	return out
}

func readSome(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.IsDir() {
		return nil, errors.Join(err, fs.ErrInvalid)
	}
	return io.ReadAll(io.LimitReader(f, maxSources))
}

// parseList reads the one-line format: deb [options] uri suite components.
func parseList(text []byte) []Source {
	var out []Source
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "deb" {
			continue
		}
		f = f[1:]
		if strings.HasPrefix(f[0], "[") {
			end := slices.IndexFunc(f, func(s string) bool { return strings.HasSuffix(s, "]") })
			if end < 0 {
				continue
			}
			f = f[end+1:]
		}
		if len(f) >= 2 {
			out = appendSource(out, f[:1], f[1:2])
		}
	}
	return out
}

// parseSources reads the deb822 format.
func parseSources(text []byte) []Source {
	var out []Source
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	paragraphs(text, func(p []byte) bool {
		s, err := ParseStanza(p)
		if err != nil || s.Field("Enabled") == "no" || !slices.Contains(strings.Fields(s.Field("Types")), "deb") {
			return true
		}
		out = appendSource(out, strings.Fields(s.Field("URIs")), strings.Fields(s.Field("Suites")))
		return true
	})
	return out
}

func appendSource(out []Source, uris, suites []string) []Source {
	var web []string
	for _, u := range uris {
		if strings.HasPrefix(u, "http://") || strings.HasPrefix(u, "https://") {
			web = append(web, u)
		}
	}
	if len(web) == 0 || len(suites) == 0 {
		return out
	}
	return append(out, Source{URIs: web, Suites: suites})
}
