package builder

import (
	"slices"

	"muster/images"
	"muster/internal/kmod"
)

// shareModules returns what a node needs to read its userland from a share, and what those modules
// need, in the order of loading. A kernel that lacks one has no such nodes: nothing is returned.
func shareModules(index *kmod.Index, pieces map[string]kmod.Piece) []images.UserlandModule {
	var out []images.UserlandModule
	for _, name := range images.ShareModuleNames() {
		m, ok := index.Module(name)
		if !ok && index.Builtin(name) {
			continue
		}
		if !ok {
			return nil
		}
		order := append([]string{m.Name}, m.Deps...)
		slices.Reverse(order)
		for _, need := range order {
			m, ok := index.Module(need)
			if !ok || slices.ContainsFunc(out, func(o images.UserlandModule) bool { return o.Path == m.Path }) {
				continue
			}
			p, ok := pieces[m.Path]
			if !ok {
				return nil
			}
			out = append(out, images.UserlandModule{Path: m.Path, Offset: p.Offset, Size: p.Size, SHA256: p.SHA256})
		}
	}
	return out
}

// userlandModules are those of p.Share that an initramfs with those modules does not have.
func (p packFiles) userlandModules(has []string) *images.UserlandModules {
	if len(p.Share) == 0 {
		return nil
	}
	out := &images.UserlandModules{SHA256: p.Pack.SHA256, Size: p.Pack.Size}
	for _, m := range p.Share {
		if !slices.Contains(has, kmod.Name(m.Path)) {
			out.Pieces = append(out.Pieces, m)
		}
	}
	return out
}
