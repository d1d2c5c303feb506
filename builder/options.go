package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"muster/images"
	"muster/internal/kmod"
	"muster/internal/kmod/depmod"
)

// moduleError is about a module that a definition names and a kernel does not have.
type moduleError struct {
	key, name  string // of the definition
	text, hint string
	where      string // that the definition has it, in brackets
}

func (e *moduleError) Error() string { return e.text + e.where + e.hint }

// placed gives every moduleError in err the place where d names the module.
func placed(err error, d *images.Definition) error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			placed(e, d)
		}
		return err
	}
	if e, ok := errors.AsType[*moduleError](err); ok {
		e.where = d.Where(e.key, e.name)
	}
	return err
}

func nearText(near []string) string {
	if len(near) == 0 {
		return ""
	}
	return "; like it are: " + strings.Join(near, ", ")
}

// optionsOf returns the parameters of the module in a file such as loop.ko.
func optionsOf(all map[string]string, file string) string {
	var out []string
	for _, name := range sortedKeys(all) {
		if kmod.Name(name) == kmod.Name(file) {
			out = append(out, all[name])
		}
	}
	return strings.Join(out, " ")
}

// checkOptions looks for modules that the kernel does not have, and for parameters that
// a module does not have: loading it would go wrong, or leave the parameter out.
func checkOptions(ctx context.Context, k *kernelPackage, sel *selection, options map[string]string) error {
	paths := make(map[string]string, len(k.modules))
	for p := range k.modules {
		paths[kmod.Name(p)] = p
	}
	builtin := builtinModules(k)
	var errs []error
	bad := func(name, text, hint string) {
		errs = append(errs, inputError{&moduleError{key: "modules.options", name: name, text: text, hint: hint}})
	}
	for _, name := range sortedKeys(options) {
		n := kmod.Name(name)
		file, ok := paths[n]
		switch {
		case !ok && builtin[n]:
			bad(name, fmt.Sprintf("modules: options: %s is built into the kernel", name), fmt.Sprintf("; give its parameters on the kernel command line: kernel: cmdline: ... %s.%s", name, options[name]))
			continue
		case !ok:
			bad(name, fmt.Sprintf("modules: options: there is no module %s", name), nearText(images.Nearest(n, slices.Sorted(maps.Keys(paths)), 3)))
			continue
		}
		params, err := paramsOf(k, sel, n, file)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for word := range strings.FieldsSeq(outsideQuotes(options[name])) {
			param, _, _ := strings.Cut(word, "=")
			if !slices.Contains(params, strings.ReplaceAll(param, "-", "_")) {
				hint := "; it names none"
				if len(params) > 0 {
					hint = "; it names: " + strings.Join(params, ", ")
				}
				// A few parameters stand in the code alone.
				hint += fmt.Sprintf(" (one that it does not name can be given on the kernel command line: %s.%s)", name, word)
				bad(name, fmt.Sprintf("modules: options: %s has no parameter %s", name, param), hint)
			}
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// paramsOf returns the names of a module's parameters, sorted.
func paramsOf(k *kernelPackage, sel *selection, name, file string) ([]string, error) {
	ko := sel.raw[name]
	if ko == nil {
		var err error
		if ko, err = depmod.Unpack(file, bytes.NewReader(k.modules[file])); err != nil {
			return nil, err
		}
	}
	info, err := depmod.Parse(depmod.RawPath(path.Base(file)), bytes.NewReader(ko))
	var out []string
	for _, p := range info.Params {
		out = append(out, strings.ReplaceAll(p, "-", "_"))
	}
	slices.Sort(out)
	return slices.Compact(out), err
}

// outsideQuotes is s without what stands in double quotes, in which the kernel allows spaces.
func outsideQuotes(s string) string {
	var b strings.Builder
	for i, part := range strings.Split(s, `"`) {
		if i%2 == 0 {
			b.WriteString(part)
		}
	}
	return b.String()
}

func builtinModules(k *kernelPackage) map[string]bool {
	builtin := make(map[string]bool)
	for line := range strings.Lines(string(k.texts["modules.builtin"])) {
		builtin[kmod.Name(strings.TrimSpace(line))] = true
	}
	return builtin
}
