package kmod

import (
	"slices"
	"strings"
)

// matcher finds the aliases that match a string. Most of 26,000 patterns start
// with a bus and an identifier (pci:v00008086d…), so they are kept sorted by the
// text before their first wildcard: a string is compared only with patterns
// whose text is a prefix of it.
type matcher struct {
	byPrefix map[string][]int // literal prefix to positions in aliases
	lengths  []int            // the lengths of prefixes that exist
	aliases  []Alias
}

func newMatcher(aliases []Alias) matcher {
	m := matcher{byPrefix: make(map[string][]int), aliases: aliases}
	seen := make(map[int]bool)
	for i, a := range aliases {
		prefix := literalPrefix(a.Pattern)
		m.byPrefix[prefix] = append(m.byPrefix[prefix], i)
		if !seen[len(prefix)] {
			seen[len(prefix)] = true
			m.lengths = append(m.lengths, len(prefix))
		}
	}
	slices.Sort(m.lengths)
	return m
}

// literalPrefix returns the text before the first character that is special in
// a pattern, with - as _.
func literalPrefix(pattern string) string {
	i := strings.IndexAny(pattern, `*?[\`)
	if i < 0 {
		i = len(pattern)
	}
	return underscores(pattern[:i])
}

// find returns the modules whose pattern matches s, in index order.
func (m *matcher) find(s string) []string {
	s = underscores(s)
	var hits []int
	for _, n := range m.lengths {
		if n > len(s) {
			break
		}
		for _, i := range m.byPrefix[s[:n]] {
			if fnmatch(underscoresPattern(m.aliases[i].Pattern[n:]), s[n:]) {
				hits = append(hits, i)
			}
		}
	}
	slices.Sort(hits)
	var names []string
	for _, i := range hits {
		if name := m.aliases[i].Module; !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func underscores(s string) string { return strings.ReplaceAll(s, "-", "_") }

// underscoresPattern is underscores for a pattern: a - within brackets is a range
// and stays.
func underscoresPattern(p string) string {
	if strings.IndexByte(p, '-') < 0 {
		return p
	}
	b := []byte(p)
	bracket := false
	for i, c := range b {
		switch {
		case c == '[':
			bracket = true
		case c == ']':
			bracket = false
		case c == '-' && !bracket:
			b[i] = '_'
		}
	}
	return string(b)
}

// fnmatch is fnmatch(3) with no flags: * and ? match any characters, / and a
// leading dot among them; [abc], [a-z] and [!a] match one. An unclosed bracket
// is a plain character. Time is bounded by the product of the lengths.
func fnmatch(p, s string) bool {
	starP, starS := -1, 0
	i, j := 0, 0
	for j < len(s) {
		if i < len(p) {
			if p[i] == '*' {
				starP, starS = i, j
				i++
				continue
			}
			if n, ok := matchOne(p[i:], s[j]); ok {
				i += n
				j++
				continue
			}
		}
		if starP < 0 {
			return false
		}
		starS++
		i, j = starP+1, starS
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

// matchOne matches c with the first element of pattern p, which is no *, and
// returns the length of that element.
func matchOne(p string, c byte) (n int, ok bool) {
	switch p[0] {
	case '?':
		return 1, true
	case '\\':
		if len(p) > 1 {
			return 2, p[1] == c
		}
		return 1, c == '\\'
	case '[':
		return matchBracket(p, c)
	}
	return 1, p[0] == c
}

func matchBracket(p string, c byte) (n int, ok bool) {
	i := 1
	negate := i < len(p) && (p[i] == '!' || p[i] == '^')
	if negate {
		i++
	}
	first := true
	for ; i < len(p); first = false {
		if p[i] == ']' && !first {
			return i + 1, ok != negate
		}
		lo := p[i]
		i++
		hi := lo
		if i+1 < len(p) && p[i] == '-' && p[i+1] != ']' {
			hi = p[i+1]
			i += 2
		}
		ok = ok || lo <= c && c <= hi
	}
	return 1, c == '['
}
