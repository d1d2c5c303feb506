package builder

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"muster/initramfs"
)

// finish adds what on an installed system the packages' scripts would have made.
// No script is run: what they do that a task can see is known, and is little.
func (r *root) finish(init []byte) error {
	return errors.Join(
		r.addFrame(),
		r.addUsers(),
		r.addCertificates(),
		r.addCopies(),
		r.addAlternatives(),
		r.addConfigured(),
		r.addJavaKeys(),
		r.addShell(),
		r.addLinkerCache(),
		r.tree.AddBytes("usr/lib/muster/init", 0o755, init, "muster-init"),
		r.tree.Check(),
	)
}

// absent says whether nothing is at a path yet.
func (r *root) absent(name string) bool { return r.tree.Lookup(name) == nil }

// addFrame adds the folders that are mounted over, and the links of a merged
// /usr, which packages before trixie's do not bring.
func (r *root) addFrame() error {
	var errs []error
	for _, d := range []struct {
		path string
		mode uint32
	}{
		{"dev", 0o755},
		{"proc", 0o555},
		{"sys", 0o555},
		{"run", 0o755},
		{"tmp", 0o1777},
		{"var/tmp", 0o1777},
		{"root", 0o700},
		{"home", 0o755},
		{"mnt", 0o755},
		{"media", 0o755},
		{"srv", 0o755},
		{"opt", 0o755},
		{"etc", 0o755},
		{"usr/bin", 0o755},
		{"usr/sbin", 0o755},
		{"usr/lib", 0o755},
		{"usr/lib64", 0o755},
	} {
		if r.owners[d.path] == nil {
			errs = append(errs, r.tree.AddDir(d.path, d.mode, "muster"))
		}
		if e := r.tree.Lookup(d.path); e != nil && e.Type == initramfs.File {
			errs = append(errs, inputErrorf("/%s of %s is a file; a userland has a folder there", d.path, e.Source))
		}
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib64", "lib32", "libx32"} {
		if r.absent(name) && !r.absent("usr/"+name) {
			errs = append(errs, r.tree.AddSymlink(name, "usr/"+name, "muster"))
		}
	}
	if r.absent("etc/mtab") {
		errs = append(errs, r.tree.AddSymlink("etc/mtab", "../proc/self/mounts", "muster"))
	}
	if utc := "usr/share/zoneinfo/Etc/UTC"; r.absent("etc/localtime") && !r.absent(utc) {
		errs = append(errs, r.tree.AddSymlink("etc/localtime", "/"+utc, "muster"))
	}
	for name, text := range map[string]string{
		"etc/hosts":       "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
		"etc/hostname":    "localhost\n",
		"etc/resolv.conf": "",
	} {
		if r.absent(name) {
			errs = append(errs, r.tree.AddBytes(name, 0o644, []byte(text), "muster"))
		}
	}
	return errors.Join(errs...)
}

// addCopies puts files in place of which a package has a master.
func (r *root) addCopies() error {
	var errs []error
	for to, from := range map[string]string{
		"etc/nsswitch.conf": "usr/share/libc-bin/nsswitch.conf",
		"etc/profile":       "usr/share/base-files/profile",
	} {
		text, err := r.text(from)
		if err == nil && text != "" && r.absent(to) {
			err = r.tree.AddBytes(to, 0o644, []byte(text), from)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// addShell adds /bin/sh where no package brings it.
func (r *root) addShell() error {
	for _, shell := range []string{"dash", "bash"} {
		if r.absent("usr/bin/sh") && !r.absent("usr/bin/"+shell) {
			return r.tree.AddSymlink("usr/bin/sh", shell, "muster")
		}
	}
	return nil
}

// allCertificates is the file of all authorities.
const allCertificates = "etc/ssl/certs/ca-certificates.crt"

// addCertificates joins the authorities of ca-certificates to the one file that OpenSSL,
// GnuTLS and Go read, and gives OpenSSL its own name for it.
func (r *root) addCertificates() error {
	const folder, bundle = "usr/share/ca-certificates/mozilla/", allCertificates
	var all strings.Builder
	newest := 0 // source of them
	for e := range r.tree.All() {
		if !strings.HasPrefix(e.Path, folder) || !strings.HasSuffix(e.Path, ".crt") {
			continue
		}
		newest = max(newest, r.sourceLevel(e.Path))
		text, err := r.text(e.Path)
		if err != nil {
			return err
		}
		all.WriteString(strings.TrimRight(text, "\n") + "\n")
	}
	if all.Len() == 0 {
		return nil
	}
	if !r.absent(bundle) {
		if level := r.sourceLevel(bundle); level == 0 || level >= newest {
			return nil // whoever brings the bundle knows best
		}
		if err := r.displace(bundle); err != nil {
			return err
		}
	}
	if err := r.tree.AddBytes(bundle, 0o644, []byte(all.String()), "ca-certificates"); err != nil {
		return err
	}
	if r.absent("usr/lib/ssl/cert.pem") {
		return r.tree.AddSymlink("usr/lib/ssl/cert.pem", "/"+bundle, "ca-certificates")
	}
	return nil
}

// The ids that Debian gives to users of packages one after the other.
const (
	firstSystemID = 100
	lastSystemID  = 999
)

// addUsers writes passwd and group: base-passwd's, and those that packages
// declare for systemd-sysusers (sysusers.d(5)). Whoever asks for no number gets one
// in the order of names.
func (r *root) addUsers() error {
	users, err := r.text("usr/share/base-passwd/passwd.master")
	if err != nil {
		return err
	}
	groups, err := r.text("usr/share/base-passwd/group.master")
	if err != nil {
		return err
	}
	from := "package base-passwd"
	if users == "" {
		users, groups, from = passwd, group, "every image"
	}
	// An image has those that its own programs know.
	for name, text := range map[string]*string{"etc/passwd": &users, "etc/group": &groups} {
		if r.sourceLevel(name) == 0 {
			continue // not there, or of the definition's files
		}
		own, err := r.text(name)
		if err != nil {
			return err
		}
		if own != "" {
			from = r.tree.Lookup(name).Source
			*text = strings.TrimRight(own, "\n") + "\n"
			if err := r.displace(name); err != nil {
				return err
			}
		}
	}
	all := accounts{strings.ReplaceAll(users, ":*:", ":x:"), strings.ReplaceAll(groups, ":*:", ":x:")}
	var lines []string
	var declarations []sysusersLine
	for e := range r.tree.All() {
		if path.Dir(e.Path) != "usr/lib/sysusers.d" || path.Ext(e.Path) != ".conf" {
			continue
		}
		text, err := r.text(e.Path)
		if err != nil {
			return err
		}
		lines = append(lines, strings.Split(text, "\n")...)
		declarations = append(declarations, sysusersLines(text, e.Source)...)
	}
	if all, err = all.with(r.definition, from, declarations); err != nil {
		return err
	}
	all.passwd, all.group = declared(all.passwd, all.group, lines)
	if all, err = all.joined(r.definition, true); err != nil {
		return err
	}
	return errors.Join(addAccounts(r.tree, r.definition, all, "base-passwd"), addHomes(r.tree, r.definition))
}

// declared adds the users and groups of sysusers.d lines.
func declared(users, groups string, lines []string) (string, string) {
	used := make(map[int]bool)
	names := func(text string) map[string]int {
		out := make(map[string]int)
		for line := range strings.Lines(text) {
			if f := strings.Split(strings.TrimSpace(line), ":"); len(f) > 2 {
				n, err := strconv.Atoi(f[2])
				if err == nil {
					out[f[0]], used[n] = n, true
				}
			}
		}
		return out
	}
	haveUsers, haveGroups := names(users), names(groups)
	next := firstSystemID
	number := func(wanted string) int {
		wanted, _, _ = strings.Cut(wanted, ":")
		if n, err := strconv.Atoi(wanted); err == nil {
			used[n] = true
			return n
		}
		for used[next] && next < lastSystemID {
			next++
		}
		used[next] = true
		return next
	}
	var all [][]string
	for _, line := range lines {
		if f := sysusersFields(line); f != nil && !strings.Contains(f[1], "%") {
			all = append(all, f)
		}
	}
	// Fixed numbers first, so that nobody else gets them.
	slices.SortStableFunc(all, func(a, b []string) int {
		return cmp.Or(strings.Compare(isFixed(a), isFixed(b)), strings.Compare(a[1], b[1]))
	})
	for _, f := range all {
		kind, name := f[0][:1], f[1]
		if _, ok := haveGroups[name]; !ok && (kind == "g" || kind == "u") {
			n := number(f[2])
			haveGroups[name] = n
			groups += fmt.Sprintf("%s:x:%d:\n", name, n)
		}
		if _, ok := haveUsers[name]; ok || kind != "u" {
			continue
		}
		n := haveGroups[name]
		haveUsers[name] = n
		users += fmt.Sprintf("%s:x:%d:%d:%s:%s:%s\n", name, n, n, strings.ReplaceAll(f[3], ":", ""), cmp.Or(f[4], "/"), cmp.Or(f[5], "/usr/sbin/nologin"))
	}
	return users, groups
}

// isFixed sorts users with a number of their own before others.
func isFixed(f []string) string {
	if f[2] != "" {
		return "fixed"
	}
	return "free"
}

// sysusersFields splits a line into six fields, of which "" and "-" are the same.
func sysusersFields(line string) []string {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return nil
	}
	var out []string
	for line != "" {
		var f string
		if rest, quoted := strings.CutPrefix(line, `"`); quoted {
			f, line, _ = strings.Cut(rest, `"`)
		} else {
			f, line, _ = strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
		}
		if f == "-" {
			f = ""
		}
		out, line = append(out, f), strings.TrimSpace(line)
	}
	for len(out) < 6 {
		out = append(out, "")
	}
	if out[0] == "" || out[1] == "" {
		return nil
	}
	return out
}

// addAlternatives makes the links that update-alternatives(1) would have made,
// by the calls that stand in the packages' scripts.
func (r *root) addAlternatives() error {
	best := make(map[string]alternative)
	for _, script := range r.scripts {
		for _, a := range alternativesIn(script) {
			if r.absent(unrooted(a.path)) {
				continue
			}
			if old, ok := best[a.name]; !ok || a.priority > old.priority {
				best[a.name] = a
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(best)) {
		a := best[name]
		if err := r.addLink(a.link, a.name, a.path); err != nil {
			return err
		}
		for _, s := range a.slaves {
			if err := r.addLink(s[0], s[1], s[2]); err != nil {
				return err
			}
		}
	}
	return nil
}

// addConfigured adds configuration that packages have as a master and put into place when
// they are installed.
func (r *root) addConfigured() error {
	var errs []error
	for _, script := range r.scripts {
		for to, from := range configuredIn(script) {
			to = unrooted(to)
			if !r.absent(to) || r.absent(unrooted(from)) {
				continue
			}
			text, err := r.text(unrooted(from))
			if err == nil {
				err = r.tree.AddBytes(to, 0o644, []byte(text), strings.TrimPrefix(from, "/"))
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// addLink makes link → /etc/alternatives/name → target, unless target is not
// in the userland or something is at link.
func (r *root) addLink(link, name, target string) error {
	link = unrooted(link)
	if !r.absent(link) || r.absent(unrooted(target)) || !r.absent("etc/alternatives/"+name) {
		return nil
	}
	return errors.Join(
		r.tree.AddSymlink("etc/alternatives/"+name, target, "alternatives"),
		r.tree.AddSymlink(link, "/etc/alternatives/"+name, "alternatives"),
	)
}

// unrooted is a path as the tree has it, with /usr merged.
func unrooted(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	switch top, _, _ := strings.Cut(p, "/"); top {
	case "bin", "sbin", "lib", "lib64":
		return "usr/" + p
	}
	return p
}
