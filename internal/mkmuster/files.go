package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
)

// source is what one file of a package declares and uses.
type source struct {
	path    string
	declare []string // names, and TYPE.METHOD
	use     map[string]bool
}

// filesFor lists the files of a package that some of them take to be built: those that declare what they use. build is
// the tag that the program is built with.
func filesFor(dir, build string, begin ...string) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	var all, chosen []*source
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		s, without, err := readSource(path, build)
		if err != nil {
			return nil, err
		}
		switch {
		case without:
		case slices.Contains(begin, filepath.Base(path)):
			chosen = append(chosen, s)
		default:
			all = append(all, s)
		}
	}
	if len(chosen) != len(begin) {
		return nil, fmt.Errorf("%s has not all of %s", dir, strings.Join(begin, ", "))
	}
	for {
		i := slices.IndexFunc(all, func(s *source) bool { return s.needed(chosen) })
		if i < 0 {
			break
		}
		chosen = append(chosen, all[i])
		all = slices.Delete(all, i, i+1)
	}
	files := make([]string, len(chosen))
	for i, s := range chosen {
		files[i] = s.path
	}
	return files, nil
}

// needed tells whether the chosen files use what s declares. A method counts where its type is declared in one of them and
// something of its name is selected.
func (s *source) needed(chosen []*source) bool {
	return slices.ContainsFunc(s.declare, func(name string) bool {
		receiver, method, ok := strings.Cut(name, ".")
		if ok && !slices.ContainsFunc(chosen, func(c *source) bool { return slices.Contains(c.declare, receiver) }) {
			return false
		}
		return slices.ContainsFunc(chosen, func(c *source) bool { return c.use[receiver] && !ok || ok && c.use["."+method] })
	})
}

// readSource reads a file; without: it is not of a program that is built with the tag.
func readSource(path, build string) (s *source, without bool, err error) {
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
	if err != nil {
		return nil, false, err
	}
	for _, c := range f.Comments {
		without = without || c.Pos() < f.Package && strings.Contains(c.List[0].Text, "//go:build !"+build)
	}
	s = &source{path: path, use: map[string]bool{}}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				name = receiver(d.Recv.List[0].Type) + "." + name
			}
			s.declare = append(s.declare, name)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					s.declare = append(s.declare, spec.Name.Name)
				case *ast.ValueSpec:
					for _, n := range spec.Names {
						s.declare = append(s.declare, n.Name)
					}
				}
			}
		}
	}
	for _, name := range f.Unresolved { // declared elsewhere
		s.use[name.Name] = true
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			s.use["."+sel.Sel.Name] = true
		}
		return true
	})
	return s, without, nil
}

func receiver(t ast.Expr) string {
	switch t := t.(type) {
	case *ast.StarExpr:
		return receiver(t.X)
	case *ast.IndexExpr:
		return receiver(t.X)
	case *ast.Ident:
		return t.Name
	}
	return ""
}
