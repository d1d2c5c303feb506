package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"runtime"
	"slices"
	"strings"

	"muster/images"
	"muster/internal/kmod"
	"muster/internal/kmod/depmod"

	"golang.org/x/sync/errgroup"
)

// selection is the modules of an image.
type selection struct {
	set   *depmod.Set
	files map[string][]byte // by path, packed where the kernel can unpack it: kernel/fs/x.ko.xz
	raw   map[string][]byte // by name of module, not packed
}

// names returns the names of the modules, sorted by path.
func (s *selection) names() []string {
	var out []string
	for m := range s.set.Index.All() {
		out = append(out, m.Name)
	}
	return out
}

// id is the hash of what is in the modules and how they are called.
func (s *selection) id() string {
	var list []string
	for _, name := range sortedKeys(s.raw) {
		list = append(list, name+" "+hashBytes(s.raw[name]))
	}
	return hashOf(list)
}

// selectModules takes the modules that want names with everything they depend
// on. Only these are unpacked: to unpack all modules of a kernel takes ten times
// as long.
func selectModules(ctx context.Context, k *kernelPackage, want images.Modules) (*selection, error) {
	paths := make(map[string]string, len(k.modules)) // by name of module
	for p := range k.modules {
		paths[kmod.Name(p)] = p
	}
	next, err := seeds(paths, builtinModules(k), want)
	if err != nil {
		return nil, err
	}
	sel := &selection{files: make(map[string][]byte), raw: make(map[string][]byte)}
	infos := make(map[string]depmod.Info)
	for len(next) > 0 {
		batch, err := unpackModules(ctx, k, paths, next)
		if err != nil {
			return nil, err
		}
		next = nil
		for i := range batch {
			m := &batch[i]
			infos[m.info.Name] = m.info
			sel.files[m.info.Path], sel.raw[m.info.Name] = m.file, m.raw
		}
		for i := range batch {
			for _, need := range needs(batch[i].info, paths) {
				if paths[need] == "" {
					continue // what comes of it is said below
				}
				if _, ok := infos[need]; !ok && !slices.Contains(next, need) {
					next = append(next, need)
				}
			}
		}
	}
	in := depmod.Input{Order: k.texts["modules.order"], Builtin: k.texts["modules.builtin"], BuiltinModinfo: k.texts["modules.builtin.modinfo"]}
	for _, name := range sortedKeys(infos) {
		in.Modules = append(in.Modules, infos[name])
	}
	in.Partial = true
	if sel.set, err = depmod.Build(in); err != nil {
		return nil, err
	}
	for _, name := range sortedKeys(sel.set.Lacking) {
		if slices.ContainsFunc(alwaysModules(want), func(n string) bool { return kmod.Name(n) == name }) {
			return nil, inputError{&moduleError{
				key: "modules.names", name: name,
				text: fmt.Sprintf("module %s needs %s, which is in no package of the kernel", name, sel.set.Lacking[name]),
				hint: "; take a kernel package that brings it",
			}}
		}
		delete(sel.files, infos[name].Path)
		delete(sel.raw, name)
	}
	return sel, nil
}

// alwaysModules are those that an image cannot do without.
func alwaysModules(want images.Modules) []string {
	return append([]string{"loop", "squashfs"}, want.Names...)
}

// needs returns what a module depends on: all that it must have, and of what
// it would like to have that which the kernel has.
func needs(info depmod.Info, paths map[string]string) []string {
	out := slices.Clone(info.Depends)
	for i, dep := range out {
		out[i] = kmod.Name(dep)
	}
	for _, text := range info.Softdeps {
		soft := kmod.ParseSoftdep(info.Name, text)
		for _, name := range slices.Concat(soft.Pre, soft.Post) {
			out = append(out, softNames(name, paths)...)
		}
	}
	return out
}

// softNames returns the modules that a soft dependency stands for. It may be the
// alias of an algorithm, whose module has the same name or that with _generic.
func softNames(name string, paths map[string]string) []string {
	algorithm, _ := strings.CutPrefix(name, "crypto-")
	var out []string
	for _, n := range []string{kmod.Name(name), kmod.Name(algorithm), kmod.Name(algorithm) + "_generic"} {
		if _, ok := paths[n]; ok && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// seeds returns the names of the modules that groups and names choose. Those of
// groups may be missing, those of names may not.
func seeds(paths map[string]string, builtin map[string]bool, want images.Modules) ([]string, error) {
	chosen := make(map[string]bool)
	for _, g := range images.ModuleGroups() {
		if !slices.Contains(want.Groups, g.Name) {
			continue
		}
		group := make(map[string]bool)
		for _, pattern := range g.Patterns {
			pattern, exclude := strings.CutPrefix(pattern, "!")
			for _, name := range matchModules(paths, pattern) {
				group[name] = !exclude
			}
		}
		for name, in := range group {
			if in {
				chosen[name] = true
			}
		}
	}
	var errs []error
	for _, name := range alwaysModules(want) {
		n := kmod.Name(name)
		switch {
		case paths[n] != "":
			chosen[n] = true
		case !builtin[n]:
			near := images.Nearest(n, slices.Collect(maps.Keys(paths)), 3)
			errs = append(errs, inputError{&moduleError{key: "modules.names", name: name, text: "there is no module " + name, hint: nearText(near)}})
		}
	}
	return sortedKeys(chosen), errors.Join(errs...)
}

// matchModules returns the modules that a pattern of a group means.
func matchModules(paths map[string]string, pattern string) []string {
	if !strings.Contains(pattern, "/") {
		if n := kmod.Name(pattern); paths[n] != "" {
			return []string{n}
		}
		return nil
	}
	var out []string
	for name, p := range paths {
		in := strings.TrimPrefix(p, "kernel/")
		if strings.HasSuffix(pattern, "/") && strings.HasPrefix(in, pattern) || depmod.RawPath(in) == pattern+".ko" {
			out = append(out, name)
		}
	}
	return out
}

type unpacked struct {
	info      depmod.Info
	file, raw []byte
}

// unpackModules unpacks modules on all CPUs; the result is in the order of names.
func unpackModules(ctx context.Context, k *kernelPackage, paths map[string]string, names []string) ([]unpacked, error) {
	out := make([]unpacked, len(names))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range names {
		p, ok := paths[name]
		if !ok {
			return nil, errors.Join(fmt.Errorf("module %s is needed but the kernel package does not have it", name), g.Wait())
		}
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			ko, err := depmod.Unpack(p, bytes.NewReader(k.modules[p]))
			if err != nil {
				return err
			}
			name, file := depmod.RawPath(p), ko
			if k.unpacks(path.Ext(p)) {
				name, file = p, k.modules[p]
			}
			info, err := depmod.Parse(name, bytes.NewReader(ko))
			out[i] = unpacked{info, file, ko}
			return err
		})
	}
	return out, g.Wait()
}

// earlyModules returns, in the order of loading, the modules without which the
// squashfs with all others cannot be mounted.
func earlyModules(index *kmod.Index) ([]kmod.Module, error) {
	var out []kmod.Module
	add := func(name string) {
		if m, ok := index.Module(name); ok && !slices.ContainsFunc(out, func(o kmod.Module) bool { return o.Name == m.Name }) {
			out = append(out, m)
		}
	}
	for _, name := range []string{"loop", "squashfs"} {
		m, ok := index.Module(name)
		if !ok {
			if !index.Builtin(name) {
				return nil, fmt.Errorf("it has no %s, which every image needs", name)
			}
			continue
		}
		for _, dep := range slices.Backward(m.Deps) {
			add(dep)
		}
		add(name)
	}
	return out, nil
}

func sortedKeys[M ~map[string]V, V any](m M) []string {
	return slices.Sorted(maps.Keys(m))
}
