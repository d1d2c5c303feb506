package builder

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"muster/images"
	"muster/initramfs"
)

// accounts are the texts of passwd and group.
type accounts struct{ passwd, group string }

// with adds the users and groups of d. from says where those that are there come from;
// one that has the name or the number of another is an error that names both. declared are
// lines of sysusers.d that will be added later, each with what it is from.
func (a accounts) with(d *images.Definition, from string, declared []sysusersLine) (accounts, error) {
	if len(d.Users) == 0 && len(d.Groups) == 0 {
		return a, nil
	}
	users, groups := idsIn(a.passwd, from), idsIn(a.group, from)
	for _, l := range declared {
		users.declare(l, "u")
		groups.declare(l, "ug")
	}
	for _, g := range d.Groups {
		if err := groups.take("groups", "gid", g.Name, g.At, *g.GID); err != nil {
			return a, err
		}
		a.group += fmt.Sprintf("%s:x:%d:\n", g.Name, *g.GID)
	}
	for _, u := range d.Users {
		if err := users.take("users", "uid", u.Name, u.At, *u.UID); err != nil {
			return a, err
		}
		gid := u.FirstGID()
		if groups.byID[gid] == "" {
			if err := groups.take("users", "gid", u.Name, u.At, gid); err != nil {
				return a, err
			}
			a.group += fmt.Sprintf("%s:x:%d:\n", u.Name, gid)
		}
		a.passwd += fmt.Sprintf("%s:x:%d:%d:%s:%s:%s\n", u.Name, *u.UID, gid, u.Comment, u.HomeDir(), u.LoginShell())
	}
	return a, nil
}

// joined adds the users of d to their further groups. all says that a group which is
// not there is an error: where a place has only some of the groups, those that it lacks are
// left out.
func (a accounts) joined(d *images.Definition, all bool) (accounts, error) {
	lines := strings.Split(strings.TrimSuffix(a.group, "\n"), "\n")
	for _, u := range d.Users {
		for _, g := range u.Groups {
			i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, g+":") })
			if i < 0 && all {
				return a, inputErrorf("users: %s%s: groups: the image has no group %s%s; add it under groups", u.Name, at(u.At), g, nearGroups(g, lines))
			}
			if i < 0 {
				continue
			}
			if !strings.HasSuffix(lines[i], ":") {
				lines[i] += ","
			}
			lines[i] += u.Name
		}
	}
	a.group = strings.Join(lines, "\n") + "\n"
	return a, nil
}

func nearGroups(name string, lines []string) string {
	var names []string
	for _, l := range lines {
		n, _, _ := strings.Cut(l, ":")
		names = append(names, n)
	}
	if near := images.Nearest(name, names, 3); len(near) > 0 {
		return " (like it are: " + strings.Join(near, ", ") + ")"
	}
	return ""
}

// idTable knows who has which name and number, and where from.
type idTable struct {
	byName map[string]string // name: what it is from
	byID   map[uint32]string // number: name and what it is from
}

// idsIn reads passwd or group.
func idsIn(text, from string) *idTable {
	t := &idTable{byName: make(map[string]string), byID: make(map[uint32]string)}
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 3 {
			continue
		}
		t.byName[f[0]] = from
		if n, err := strconv.ParseUint(f[2], 10, 32); err == nil {
			t.byID[uint32(n)] = f[0] + " of " + from
		}
	}
	return t
}

// declare notes a line of sysusers.d of one of the kinds.
func (t *idTable) declare(l sysusersLine, kinds string) {
	kind, name := l.fields[0][:1], l.fields[1]
	if !strings.Contains(kinds, kind) || t.byName[name] != "" {
		return
	}
	t.byName[name] = l.from
	id, group, both := strings.Cut(l.fields[2], ":")
	if both && kinds != "u" {
		id = group
	}
	if n, err := strconv.ParseUint(id, 10, 32); err == nil {
		t.byID[uint32(n)] = name + " of " + l.from
	}
}

func (t *idTable) take(list, key, name, where string, id uint32) error {
	if other := t.byName[name]; other != "" {
		return inputErrorf("%s: %s%s is also in %s; leave it out, or give it another name", list, name, at(where), other)
	}
	if other := t.byID[id]; other != "" {
		return inputErrorf("%s: %s%s has %s %d, which is that of %s; give it another number", list, name, at(where), key, id, other)
	}
	mine := "definition" + at(where)
	t.byName[name], t.byID[id] = mine, name+" of "+mine
	return nil
}

// sysusersLine is a line of a package's sysusers.d, as [sysusersFields] splits it.
type sysusersLine struct {
	fields []string
	from   string
}

// sysusersLines are the lines of a file that declare something.
func sysusersLines(text, from string) []sysusersLine {
	var out []sysusersLine
	for line := range strings.Lines(text) {
		if f := sysusersFields(line); f != nil && !strings.Contains(f[1], "%") {
			out = append(out, sysusersLine{f, from})
		}
	}
	return out
}

// addHomes makes the homes of the users of d, where nothing is there.
func addHomes(t *initramfs.Tree, d *images.Definition) error {
	f := &filler{tree: t, place: images.InUserland}
	for _, u := range d.Users {
		name := f.resolve(u.HomeDir()[1:])
		if name == "" || images.Reserved("/"+name, images.InUserland) || t.Lookup(name) != nil {
			continue
		}
		err := t.Add(initramfs.Entry{
			Path: name, Type: initramfs.Dir, Mode: 0o700, UID: *u.UID, GID: u.FirstGID(), Source: "users: " + u.Name + at(u.At),
		})
		if err != nil {
			return asInput(err)
		}
	}
	return nil
}

// addAccounts writes passwd and group, where the definition does not bring its own. One
// that does cannot have users and groups as well.
func addAccounts(t *initramfs.Tree, d *images.Definition, a accounts, source string) error {
	for _, f := range []struct{ name, text string }{{"etc/passwd", a.passwd}, {"etc/group", a.group}} {
		old := t.Lookup(f.name)
		switch {
		case old != nil && len(d.Users)+len(d.Groups) > 0:
			return inputErrorf("files: /%s of %s takes the place of what users and groups of the definition say; leave one out", f.name, old.Source)
		case old != nil:
			continue
		}
		if err := t.AddBytes(f.name, 0o644, []byte(f.text), source); err != nil {
			return err
		}
	}
	return nil
}
