// Command mkpackages writes the table of Debian packages by what they have,
// headnode/packages/table.txt: commands and libraries of names.txt, looked up in the archive's own index.
//
//	curl -LO http://deb.debian.org/debian/dists/trixie/main/Contents-{amd64,all}.gz
//	go run ./internal/mkpackages -o headnode/packages/table.txt Contents-amd64.gz Contents-all.gz
package main

import (
	"bufio"
	"compress/gzip"
	_ "embed"
	"flag"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
)

//go:embed names.txt
var names string

func main() {
	out := flag.String("o", "", "file to write")
	flag.Parse()
	if err := run(*out, flag.Args()); err != nil {
		fmt.Fprintf(os.Stderr, "mkpackages: %v\n", err)
		os.Exit(1)
	}
}

func run(out string, indexes []string) error {
	wanted, table := parseNames(names), map[string]string{}
	for _, index := range indexes {
		f, err := os.Open(index)
		if err != nil {
			return err
		}
		z, err := gzip.NewReader(f)
		if err != nil {
			return fmt.Errorf("reading %s: %w", index, err)
		}
		lines := bufio.NewScanner(z)
		for lines.Scan() {
			if name, pkg, ok := wantedLine(lines.Text(), wanted); ok {
				if was := table[name]; was == "" || better(name, pkg, was) {
					table[name] = pkg
				}
			}
		}
		f.Close()
		if err := lines.Err(); err != nil {
			return fmt.Errorf("reading %s: %w", index, err)
		}
	}
	for name, given := range wanted {
		if given != "" {
			table[name] = given
		}
	}
	rows := make([]string, 0, len(table))
	for name, pkg := range table {
		rows = append(rows, name+" "+pkg)
	}
	slices.Sort(rows)
	return os.WriteFile(out, []byte(strings.Join(rows, "\n")+"\n"), 0o644)
}

// parseNames reads names.txt: what is looked for, with the package where it is given.
func parseNames(text string) map[string]string {
	wanted := map[string]string{}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		for _, w := range strings.Fields(line) {
			name, pkg, _ := strings.Cut(w, "=")
			wanted[name] = pkg
		}
	}
	return wanted
}

// wantedLine reads "usr/bin/NAME section/package,..." of an index.
func wantedLine(line string, wanted map[string]string) (name, pkg string, ok bool) {
	i := strings.LastIndexAny(line, " \t")
	if i < 0 {
		return "", "", false
	}
	file := strings.TrimSpace(line[:i])
	first, _, _ := strings.Cut(line[i+1:], ",")
	dir, base := path.Split(file)
	switch dir {
	case "usr/bin/", "bin/", "usr/sbin/", "sbin/":
		_, ok = wanted[base]
	case "usr/lib/x86_64-linux-gnu/", "lib/x86_64-linux-gnu/":
		lib, version, found := strings.Cut(base, ".so.")
		if _, ok = wanted[lib]; !found || strings.Count(version, ".") > 2 {
			ok = false
		}
	}
	return base, path.Base(first), ok
}

// better tells which of two packages with one file is meant: the one that is named after it, else
// the one with the shorter name.
func better(name, pkg, was string) bool {
	if (pkg == name) != (was == name) {
		return pkg == name
	}
	return len(pkg) < len(was)
}
