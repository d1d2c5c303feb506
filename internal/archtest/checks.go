package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// checkImports returns every import that the table of parts does not allow.
func checkImports(files []source) []string {
	var bad []string
	for _, f := range files {
		if !f.inBuild {
			continue
		}
		p := partOf(f.folder())
		if p == nil {
			bad = append(bad, fmt.Sprintf("%s: the folder %q is in no part; add it to parts in rules.go", f.path, f.folder()))
			continue
		}
		for _, imp := range f.imports() {
			if why := refuse(f, p, imp); why != "" {
				bad = append(bad, fmt.Sprintf("%s imports %s: %s", f.path, imp, why))
			}
		}
	}
	return bad
}

// refuse says why a file may not import a package, or "".
func refuse(f source, p *part, imp string) string {
	if imp != module && !strings.HasPrefix(imp, module+"/") {
		// Tests may link what they like: they are not in the product.
		if f.test() || p.external == nil || !strings.Contains(strings.Split(imp, "/")[0], ".") || withinAny(imp, p.external) {
			return ""
		}
		return fmt.Sprintf("%s may import only the standard library and %v", p.folder, p.external)
	}
	target := strings.TrimPrefix(strings.TrimPrefix(imp, module), "/")
	own := strings.Split(p.folder, "/")[0]
	if own == "cmd" || own == "internal" {
		own = p.folder
	}
	switch {
	case f.test() && withinAny(target, testsToo):
		return ""
	case !f.test() && withinAny(target, testOnly) && !withinAny(f.folder(), testOnly):
		return "only tests may import it"
	case len(p.imports) > 0 && withinAny(target, p.imports):
		return ""
	case p.folder == own && within(target, own):
		return ""
	case p.folder != own && within(target, p.folder):
		return ""
	}
	return fmt.Sprintf("%s may import %q of this module", p.folder, append([]string{p.folder}, p.imports...))
}

// checkLinked follows the imports of the package in folder through the module and
// returns every external package that it links and that is not allowed.
func checkLinked(files []source, folder string, allowed []string) []string {
	byFolder := map[string][]source{}
	for _, f := range files {
		if f.inBuild && !f.test() {
			byFolder[f.folder()] = append(byFolder[f.folder()], f)
		}
	}
	var bad []string
	seen := map[string]bool{folder: true}
	for queue := []string{folder}; len(queue) > 0; queue = queue[1:] {
		for _, f := range byFolder[queue[0]] {
			for _, imp := range f.imports() {
				if target, ok := strings.CutPrefix(imp, module+"/"); ok {
					if !seen[target] {
						seen[target] = true
						queue = append(queue, target)
					}
				} else if strings.Contains(strings.Split(imp, "/")[0], ".") && !withinAny(imp, allowed) {
					bad = append(bad, fmt.Sprintf("%s links %s through %s; allowed are %v", folder, imp, f.path, allowed))
				}
			}
		}
	}
	return bad
}

// checkDocs returns every package without a comment that says what it is for:
// in doc.go, or in main.go for a program.
func checkDocs(files []source) []string {
	type pkg struct{ program, documented bool }
	pkgs := map[string]*pkg{}
	for _, f := range files {
		if f.test() || !f.inBuild {
			continue
		}
		p := pkgs[f.folder()]
		if p == nil {
			p = &pkg{}
			pkgs[f.folder()] = p
		}
		p.program = f.file.Name.Name == "main"
		p.documented = p.documented || saysWhatFor(f)
	}
	var bad []string
	for folder, p := range pkgs {
		switch {
		case p.documented:
		case p.program:
			bad = append(bad, fmt.Sprintf("%s: no comment \"Command %s …\" over package main", folder, path.Base(folder)))
		default:
			bad = append(bad, folder+": no doc.go with a comment \"Package …\"")
		}
	}
	slices.Sort(bad)
	return bad
}

// saysWhatFor reports whether a file has the comment of its package, at the place
// where it is looked for: for a program that is main.go, doc.go or the file
// named after it, and the comment begins with the program's name.
func saysWhatFor(f source) bool {
	file, name, text := path.Base(f.path), f.file.Name.Name, f.file.Doc.Text()
	if name != "main" {
		return file == "doc.go" && strings.HasPrefix(text, "Package "+name+" ")
	}
	name = path.Base(f.folder())
	if !slices.Contains([]string{"main.go", "doc.go", name + ".go"}, file) {
		return false
	}
	first, rest, _ := strings.Cut(text, " ")
	if first == "Command" {
		first, _, _ = strings.Cut(rest, " ")
	}
	return strings.EqualFold(first, name)
}

// checkState returns every init function and every package variable that can
// change: one without a value, with a value that is made to be changed, or
// that is assigned to. Tests are left alone.
func checkState(files []source) []string {
	var bad []string
	byFolder := map[string][]source{}
	for _, f := range files {
		if f.inBuild && !f.test() {
			byFolder[f.folder()] = append(byFolder[f.folder()], f)
		}
	}
	for folder, pkg := range byFolder {
		vars := map[string]*ast.ValueSpec{}
		for _, f := range pkg {
			for _, d := range f.file.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					bad = append(bad, f.at(fn.Pos())+": init runs for everybody who imports the package; do it in a constructor")
				}
				gen, ok := d.(*ast.GenDecl)
				if !ok || gen.Tok != token.VAR {
					continue
				}
				for _, spec := range gen.Specs {
					v := spec.(*ast.ValueSpec)
					bad = append(bad, checkVar(f, folder, gen, v)...)
					for _, name := range v.Names {
						vars[name.Name] = v
					}
				}
			}
		}
		for _, f := range pkg {
			bad = append(bad, checkAssigned(f, folder, vars)...)
		}
	}
	slices.Sort(bad)
	return bad
}

// checkVar judges a package variable by its declaration.
func checkVar(f source, folder string, gen *ast.GenDecl, v *ast.ValueSpec) []string {
	embedded := false
	for _, doc := range []*ast.CommentGroup{gen.Doc, v.Doc} {
		if doc != nil {
			for _, c := range doc.List {
				embedded = embedded || strings.HasPrefix(c.Text, "//go:embed ")
			}
		}
	}
	var bad []string
	for i, name := range v.Names {
		if name.Name == "_" || embedded || stateAllowed[folder+"."+name.Name] != "" {
			continue
		}
		why := ""
		switch {
		case len(v.Values) == 0:
			why = "has no value, so it is meant to get one"
		case i < len(v.Values) && madeToChange(v.Values[i]):
			why = "holds something that is made to be changed"
		}
		if why != "" {
			bad = append(bad, fmt.Sprintf("%s: package variable %s %s; put it in a struct", f.at(name.Pos()), name.Name, why))
		}
	}
	return bad
}

// madeToChange reports whether an expression makes something whose only use is
// to be changed: make, new, a type of sync or sync/atomic.
func madeToChange(e ast.Expr) bool {
	if u, ok := e.(*ast.UnaryExpr); ok && u.Op == token.AND {
		e = u.X
	}
	switch x := e.(type) {
	case *ast.CallExpr:
		id, ok := x.Fun.(*ast.Ident)
		return ok && (id.Name == "make" || id.Name == "new")
	case *ast.CompositeLit:
		if sel, ok := x.Type.(*ast.SelectorExpr); ok {
			if id, ok := sel.X.(*ast.Ident); ok {
				return id.Name == "sync" || id.Name == "atomic"
			}
		}
	}
	return false
}

// checkAssigned returns every assignment of a file to a package variable or
// to a part of one.
func checkAssigned(f source, folder string, vars map[string]*ast.ValueSpec) []string {
	unresolved := map[*ast.Ident]bool{}
	for _, id := range f.file.Unresolved {
		unresolved[id] = true
	}
	isVar := func(id *ast.Ident) bool {
		v := vars[id.Name]
		if v == nil || stateAllowed[folder+"."+id.Name] != "" {
			return false
		}
		return unresolved[id] || id.Obj != nil && id.Obj.Decl == v
	}
	var bad []string
	report := func(e ast.Expr) {
		for {
			switch x := e.(type) {
			case *ast.IndexExpr:
				e = x.X
			case *ast.SelectorExpr:
				e = x.X
			case *ast.StarExpr:
				e = x.X
			case *ast.ParenExpr:
				e = x.X
			case *ast.Ident:
				if isVar(x) {
					bad = append(bad, fmt.Sprintf("%s: assigns to the package variable %s; put it in a struct", f.at(x.Pos()), x.Name))
				}
				return
			default:
				return
			}
		}
	}
	ast.Inspect(f.file, func(n ast.Node) bool {
		switch x := n.(type) {
		case *ast.AssignStmt:
			if x.Tok != token.DEFINE {
				for _, l := range x.Lhs {
					report(l)
				}
			}
		case *ast.IncDecStmt:
			report(x.X)
		case *ast.CallExpr:
			if id, ok := x.Fun.(*ast.Ident); ok && len(x.Args) > 0 && (id.Name == "delete" || id.Name == "clear") {
				report(x.Args[0])
			}
		}
		return true
	})
	return bad
}

// quoted finds what a document sets in backticks.
var quoted = regexp.MustCompile("`([^`\n]+)`")

// pathLike is a quoted word that can only be a file or folder of the module: it
// has a slash after the name of a top folder, or ends like a source file.
var pathLike = regexp.MustCompile(`^[A-Za-z0-9_./-]+$`)

// checkPaths returns every path in the document that does not exist in tree.
// Only words that begin with a folder or file at the top of tree count.
func checkPaths(tree fs.FS, document string) ([]string, error) {
	text, err := fs.ReadFile(tree, document)
	if err != nil {
		return nil, err
	}
	top, err := fs.ReadDir(tree, ".")
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, e := range top {
		known[e.Name()] = e.IsDir()
	}
	var bad []string
	for _, m := range quoted.FindAllStringSubmatch(string(text), -1) {
		word := strings.TrimSuffix(m[1], "/")
		first, _, deep := strings.Cut(word, "/")
		if !pathLike.MatchString(word) || !deep && !strings.HasSuffix(m[1], "/") && !strings.HasSuffix(word, ".go") {
			continue
		}
		if _, ok := known[first]; !ok && !strings.HasSuffix(word, ".go") {
			continue
		}
		if _, err := fs.Stat(tree, word); err != nil {
			bad = append(bad, fmt.Sprintf("%s names %s, which is not there", document, m[1]))
		}
	}
	return bad, nil
}
