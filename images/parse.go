package images

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Inherited stands for what a definition inherits: as an item of a list for the
// items of the inherited list, as a word of the kernel command line for the inherited
// parameters.
const Inherited = "..."

// Parse reads one definition without what it inherits. name is used in
// errors, which read name:line:column: what is wrong.
func Parse(name string, data []byte) (*Definition, error) {
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, locate(name, err)
	}
	if len(file.Docs) > 1 {
		return nil, fmt.Errorf("%s: has %d YAML documents; a definition is one", name, len(file.Docs))
	}
	d := &Definition{}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return nil, fmt.Errorf("%s: is empty; a definition has at least a name and a from", name)
	}
	body := file.Docs[0].Body
	if err := userlandWord(name, body); err != nil {
		return nil, err
	}
	if err := checkKeys(name, body, reflect.TypeFor[Definition]()); err != nil {
		return nil, err
	}
	if err := yaml.NodeToValue(body, d, yaml.Strict()); err != nil {
		return nil, locate(name, err)
	}
	d.remember(name, body)
	if d.Schema > DefinitionSchema || d.Schema < 0 {
		return nil, fmt.Errorf("%s: schema %d is newer than this program, which knows %d; update muster", d.at(name, "schema"), d.Schema, DefinitionSchema)
	}
	if err := d.nameSysctls(); err != nil {
		return nil, err
	}
	return d, nil
}

// checkKeys walks a document beside the type that it is decoded into and
// reports the first key that the type does not have, or value that it cannot take.
func checkKeys(name string, n ast.Node, t reflect.Type) error {
	if u, ok := reflect.New(t).Interface().(yaml.BytesUnmarshaler); ok {
		// The decoder would not say where the error is.
		if err := u.UnmarshalYAML([]byte(n.String())); err != nil {
			return fmt.Errorf("%s: %w", at(name, n.GetToken()), err)
		}
		return nil
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, kv := range n.Values {
			var err error
			switch t.Kind() {
			case reflect.Struct:
				err = checkKey(name, kv, t)
			case reflect.Map:
				err = checkKeys(name, kv.Value, t.Elem())
			} // else the decoder says what it wants instead
			if err != nil {
				return err
			}
		}
	case *ast.SequenceNode:
		if t.Kind() != reflect.Slice {
			return nil
		}
		for _, item := range n.Values {
			if err := checkKeys(name, item, t.Elem()); err != nil {
				return err
			}
		}
	}
	return nil
}

// noKeys are keys that a person might look for and why there is none of them, by type.
var noKeys = map[string]string{
	"Site.keyboard": "a machine takes nothing from its keyboard but Ctrl-Alt-Del, so that it needs no layout",
}

func checkKey(name string, kv *ast.MappingValueNode, t reflect.Type) error {
	key := kv.Key.GetToken()
	keys := make(map[string]reflect.Type)
	for f := range t.Fields() {
		if k := f.Tag.Get("yaml"); k != "-" {
			keys[k] = f.Type
		}
	}
	sub, ok := keys[key.Value]
	if why := noKeys[t.Name()+"."+key.Value]; why != "" && !ok {
		return fmt.Errorf("%s: there is no key %q: %s", at(name, key), key.Value, why)
	}
	if !ok {
		known := sortedKeys(keys)
		meant := didYouMean(key.Value, known)
		if meant == "" {
			meant = " (it may be of a newer muster)"
		}
		return fmt.Errorf("%s: unknown key %q%s; known here are: %s",
			at(name, key), key.Value, meant, strings.Join(known, ", "))
	}
	return checkKeys(name, kv.Value, sub)
}

// locate turns an error of the YAML library into one line that begins with the
// place.
func locate(name string, err error) error {
	var located yaml.Error
	if errors.As(err, &located) && located.GetToken() != nil {
		return fmt.Errorf("%s: %s", at(name, located.GetToken()), located.GetMessage())
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return fmt.Errorf("%s: %s", name, first)
}

func at(name string, t *token.Token) string {
	if t == nil || t.Position == nil {
		return name
	}
	return fmt.Sprintf("%s:%d:%d", name, t.Position.Line, t.Position.Column)
}

// merge returns d over base: what d says replaces what base says, lists and the
// command line extend it where they hold [Inherited], and files are replaced by
// path.
func merge(base, d *Definition) *Definition {
	m := *d
	m.From, m.Schema = "", max(d.Schema, base.Schema)
	m.Name = either(d.Name, base.Name)
	m.Arch = either(d.Arch, base.Arch)
	m.Suite = either(d.Suite, base.Suite)
	m.Mirror = either(d.Mirror, base.Mirror)
	m.Keyring = either(d.Keyring, base.Keyring)
	m.Kernel = mergeKernel(base.Kernel, d.Kernel)
	m.Modules.Groups = mergeList(base.Modules.Groups, d.Modules.Groups)
	m.Modules.Names = mergeList(base.Modules.Names, d.Modules.Names)
	m.Modules.Options = mergeMap(base.Modules.Options, d.Modules.Options)
	m.Modules.Rest = either(d.Modules.Rest, base.Modules.Rest)
	m.Firmware = mergeList(base.Firmware, d.Firmware)
	m.Commands = mergeList(base.Commands, d.Commands)
	m.GoCommands = mergeList(base.GoCommands, d.GoCommands)
	m.Packages = mergeList(base.Packages, d.Packages)
	m.Userland = mergeSources(base.Userland, d.Userland)
	m.UserlandIn = UserlandIn(either(string(d.UserlandIn), string(base.UserlandIn)))
	m.Files = mergeFiles(base.Files, d.Files)
	m.Media = mergeList(base.Media, d.Media)
	m.Site = mergeSite(base.Site, d.Site)
	m.Groups = mergeNamed(base.Groups, d.Groups)
	m.Users = mergeNamed(base.Users, d.Users)
	m.Services = mergeNamed(base.Services, d.Services)
	m.Sysctls = mergeSysctls(base.Sysctls, d.Sysctls)
	m.At = mergeMap(base.At, d.At)
	return &m
}

func either(child, base string) string {
	if child != "" {
		return child
	}
	return base
}

// mergeList distinguishes a list that is not there (nil: inherit) from an
// empty one (nothing).
func mergeList(base, child []string) []string {
	if child == nil {
		return base
	}
	out := []string{}
	seen := make(map[string]bool)
	add := func(items ...string) {
		for _, s := range items {
			if !seen[s] {
				seen[s] = true
				out = append(out, s)
			}
		}
	}
	for _, s := range child {
		if s == Inherited {
			add(base...)
		} else {
			add(s)
		}
	}
	return out
}

func mergeWords(base, child string) string {
	words := strings.Fields(child)
	if len(words) == 0 {
		return base
	}
	var out []string
	for _, w := range words {
		if w == Inherited {
			out = append(out, strings.Fields(base)...)
		} else {
			out = append(out, w)
		}
	}
	return strings.Join(out, " ")
}

// mergeMap returns what both have; of a key that is in both, what the child says.
func mergeMap(base, child map[string]string) map[string]string {
	if len(base) == 0 {
		return child
	}
	out := maps.Clone(base)
	maps.Copy(out, child)
	return out
}

func mergeFiles(base, child []File) []File {
	var out []File
	replaced := make(map[string]bool)
	for _, f := range child {
		replaced[f.Path] = f.Path != ""
	}
	for _, f := range base {
		if !replaced[f.Path] {
			out = append(out, f)
		}
	}
	return append(out, child...)
}
