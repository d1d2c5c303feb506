package images

import (
	"cmp"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// DefinitionSchema is the version of the definition's format. A definition that says a
// higher one is refused.
const DefinitionSchema = 1

// remember notes where in the text of name the items of d are, for errors that name two of
// them.
func (d *Definition) remember(name string, body ast.Node) {
	d.At = make(map[string]string)
	root, ok := body.(*ast.MappingNode)
	if !ok {
		return
	}
	for _, kv := range root.Values {
		key := kv.Key.GetToken().Value
		d.At[key] = at(name, kv.Key.GetToken())
		switch v := kv.Value.(type) {
		case *ast.SequenceNode:
			for i, item := range v.Values {
				d.placeItem(key, i, at(name, firstToken(item)))
			}
		case *ast.MappingNode:
			for _, item := range v.Values {
				d.rememberKey(name, key, item)
			}
		}
	}
}

// firstToken is that of the first key of a mapping, whose own is the colon behind it.
func firstToken(n ast.Node) *token.Token {
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 && !m.IsFlowStyle {
		return m.Values[0].Key.GetToken()
	}
	return n.GetToken()
}

// placeItem gives item i of a list its place.
func (d *Definition) placeItem(key string, i int, where string) {
	switch {
	case key == "files" && i < len(d.Files):
		d.Files[i].At = where
	case key == "groups" && i < len(d.Groups):
		d.Groups[i].At = where
	case key == "users" && i < len(d.Users):
		d.Users[i].At = where
	case key == "services" && i < len(d.Services):
		d.Services[i].At = where
	}
}

// rememberKey notes where a key of a mapping is, and what is below it.
func (d *Definition) rememberKey(name, parent string, kv *ast.MappingValueNode) {
	key := kv.Key.GetToken()
	where := at(name, key)
	if parent == "sysctls" {
		if s, ok := d.Sysctls[key.Value]; ok {
			s.At = where
			d.Sysctls[key.Value] = s
		}
		return
	}
	full := parent + "." + key.Value
	d.At[full] = where
	switch v := kv.Value.(type) {
	case *ast.SequenceNode:
		for _, item := range v.Values {
			d.At[full+": "+item.GetToken().Value] = at(name, item.GetToken())
		}
	case *ast.MappingNode:
		for _, item := range v.Values {
			d.At[full+": "+item.Key.GetToken().Value] = at(name, item.Key.GetToken())
		}
	}
}

// at is where the definition has a key, or name if it does not say so.
func (d *Definition) at(name, key string) string { return cmp.Or(d.At[key], name) }

// Where returns where d has the item of a list such as modules.names, with a space and in
// brackets; "" where that is not known.
func (d *Definition) Where(key, item string) string { return where(d.At[key+": "+item]) }

// where puts a place behind what is there.
func where(at string) string {
	if at == "" {
		return ""
	}
	return " (" + at + ")"
}
