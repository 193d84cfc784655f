package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"wstun/internal/nearest"
)

// parseYAML reads a list of
//
//   - name: alice
//     password: $2a$…            # from wstun hash-password
//     tokens:
//   - name: laptop
//     sha256: 64 hex digits    # from wstun token
//
// It walks the syntax tree, which knows the line of everything, also of what
// is well-formed and wrong.
func (u *Users) parseYAML(data []byte) (place, error) {
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		var ye yaml.Error
		if errors.As(err, &ye) {
			return placeOf(ye.GetToken()), errors.New(ye.GetMessage())
		}
		return "", err
	}
	seen := false
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if seen {
			return placeOf(doc.Body.GetToken()), errors.New("a second document: write one list")
		}
		seen = true
		if at, err := u.addList(doc.Body); err != nil {
			return at, err
		}
	}
	return "", nil
}

func placeOf(t *token.Token) place {
	if t == nil || t.Position == nil {
		return ""
	}
	return place(fmt.Sprintf(":%d:%d", t.Position.Line, t.Position.Column))
}

func (u *Users) addList(n ast.Node) (place, error) {
	switch n := n.(type) {
	case *ast.NullNode, *ast.CommentGroupNode:
		return "", nil
	case *ast.SequenceNode:
		names := make(map[string]bool)
		for _, item := range n.Values {
			if at, err := u.addUser(item, names); err != nil {
				return at, err
			}
		}
		return "", nil
	}
	return placeOf(n.GetToken()), errors.New("users are a list: write - name: alice")
}

func (u *Users) addUser(n ast.Node, names map[string]bool) (place, error) {
	fields, at, err := fieldsOf(n, "name", "password", "tokens")
	if err != nil {
		return at, err
	}
	name, at, err := text(n, fields, "name")
	if err != nil {
		return at, err
	}
	if err := checkUserName(name); err != nil {
		return at, err
	}
	if names[name] {
		return at, fmt.Errorf("the user %q is there twice", name)
	}
	names[name] = true
	if fields["password"] == nil && fields["tokens"] == nil {
		return at, fmt.Errorf("%s has neither a password nor tokens", name)
	}
	if fields["password"] != nil {
		hash, at, err := text(n, fields, "password")
		if err != nil {
			return at, err
		}
		if err := u.addPassword(name, hash); err != nil {
			return at, err
		}
	}
	if fields["tokens"] == nil {
		return "", nil
	}
	list, ok := fields["tokens"].(*ast.SequenceNode)
	if !ok {
		return placeOf(fields["tokens"].GetToken()), errors.New("tokens are a list: write - name: laptop")
	}
	for _, item := range list.Values {
		if at, err := u.addTokenNode(name, item); err != nil {
			return at, err
		}
	}
	return "", nil
}

func (u *Users) addTokenNode(user string, n ast.Node) (place, error) {
	fields, at, err := fieldsOf(n, "name", "sha256")
	if err != nil {
		return at, err
	}
	name, at, err := text(n, fields, "name")
	if err != nil {
		return at, err
	}
	if name == "" {
		return at, fmt.Errorf("a token of %s has no name", user)
	}
	sum, at, err := text(n, fields, "sha256")
	if err != nil {
		return at, err
	}
	return at, u.addToken(user, name, sum)
}

// fieldsOf returns n's values by key, each one of keys.
func fieldsOf(n ast.Node, keys ...string) (map[string]ast.Node, place, error) {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		return nil, placeOf(tokenOf(n)), fmt.Errorf("this is no %s: …", keys[0])
	}
	fields := make(map[string]ast.Node)
	for _, v := range values {
		key := v.Key.GetToken()
		if !slices.Contains(keys, key.Value) {
			if near := nearest.Word(key.Value, keys); near != "" {
				return nil, placeOf(key), fmt.Errorf("unknown key %q: did you mean %q?", key.Value, near)
			}
			return nil, placeOf(key), fmt.Errorf("unknown key %q: there are %s", key.Value, strings.Join(keys, ", "))
		}
		if fields[key.Value] != nil {
			return nil, placeOf(key), fmt.Errorf("the key %q is there twice", key.Value)
		}
		fields[key.Value] = v.Value
	}
	return fields, "", nil
}

// text returns the field key of n as written, a number too: a name may be 007.
func text(n ast.Node, fields map[string]ast.Node, key string) (string, place, error) {
	field := fields[key]
	if field == nil {
		return "", placeOf(tokenOf(n)), fmt.Errorf("no %s", key)
	}
	at := placeOf(tokenOf(field))
	switch f := field.(type) {
	case *ast.StringNode:
		return f.Value, at, nil
	case *ast.LiteralNode:
		return f.Value.Value, at, nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return f.GetToken().Value, at, nil
	}
	return "", at, fmt.Errorf("%s is not a text", key)
}

// tokenOf returns where n starts. A mapping's own token is its first colon.
func tokenOf(n ast.Node) *token.Token {
	switch m := n.(type) {
	case nil:
		return nil
	case *ast.MappingNode:
		if len(m.Values) > 0 {
			return m.Values[0].Key.GetToken()
		}
	case *ast.MappingValueNode:
		return m.Key.GetToken()
	}
	return n.GetToken()
}
