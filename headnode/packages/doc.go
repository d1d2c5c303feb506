// Package packages knows which Debian package has a command or a library.
//
// The table (table.txt, of Debian 13) is written by internal/mkpackages. It has what people run on compute
// nodes and images often lack, not everything.
package packages

import (
	_ "embed"
	"strings"
)

//go:embed table.txt
var table string

// Find returns the package that has a command or a library ("gfortran", "libgfortran.so.5"), "" when
// that is not known. Of a path the last part counts.
func Find(name string) string {
	name = name[strings.LastIndexByte(name, '/')+1:]
	if name == "" || strings.ContainsAny(name, " \n") {
		return ""
	}
	// A few dozen lookups a second at most: the table is not worth an index.
	_, rest, ok := strings.Cut("\n"+table, "\n"+name+" ")
	if !ok {
		return ""
	}
	pkg, _, _ := strings.Cut(rest, "\n")
	return pkg
}
