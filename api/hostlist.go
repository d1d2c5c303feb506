package api

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxHosts bounds what one host list may expand to.
const maxHosts = 100_000

// ParseHostList expands a host list: names separated by commas or blanks,
// each of which may have one range, with brackets or without: n1, n[1-10,14],
// n1-10, rack2-[01-20]. Numbers with leading zeros keep their width. Order is
// kept; a name that comes twice is kept once.
func ParseHostList(list string) ([]string, error) {
	items, err := splitHostList(list)
	if err != nil {
		return nil, err
	}
	var names []string
	seen := map[string]bool{}
	for _, item := range items {
		expanded, err := expandHosts(item, maxHosts-len(names))
		if err != nil {
			return nil, fmt.Errorf("reading host list %q: %w", list, err)
		}
		for _, name := range expanded {
			if !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("reading host list %q: it names nothing", list)
	}
	return names, nil
}

// splitHostList cuts at commas and blanks outside brackets.
func splitHostList(list string) ([]string, error) {
	var items []string
	start, depth := 0, 0
	for i := 0; i <= len(list); i++ {
		if i < len(list) {
			switch c := list[i]; {
			case c == '[':
				depth++
			case c == ']':
				depth--
			case c != ',' && c != ' ' && c != '\t' && c != '\n':
				continue
			}
			if depth < 0 || depth > 1 {
				return nil, fmt.Errorf("reading host list %q: the brackets do not match", list)
			}
			if depth == 1 || list[i] == ']' {
				continue
			}
		}
		if i > start {
			items = append(items, list[start:i])
		}
		start = i + 1
	}
	if depth != 0 {
		return nil, fmt.Errorf("reading host list %q: a bracket is not closed", list)
	}
	return items, nil
}

// expandHosts expands one item of a host list to at most limit names.
func expandHosts(item string, limit int) ([]string, error) {
	before, rest, bracket := strings.Cut(item, "[")
	if !bracket {
		return expandPlain(item, limit)
	}
	ranges, after, _ := strings.Cut(rest, "]")
	if strings.ContainsAny(after, "[]") {
		return nil, fmt.Errorf("%q has more than one range", item)
	}
	var names []string
	for _, r := range strings.Split(ranges, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(r), "-")
		if !isRange {
			last = first
		}
		var err error
		if names, err = appendRange(names, before, first, last, after, limit); err != nil {
			return nil, fmt.Errorf("%q: %w", item, err)
		}
	}
	return names, nil
}

// expandPlain reads n1 and n1-10. A name whose part behind the last dash is
// no number, or whose part before it does not end in one, is only a name.
func expandPlain(item string, limit int) ([]string, error) {
	head, last, dash := cutLast(item, "-")
	stem := strings.TrimRight(head, "0123456789")
	first := head[len(stem):]
	if !dash || !isNumber(last) || first == "" || stem == "" || strings.HasSuffix(stem, "-") {
		if limit < 1 {
			return nil, fmt.Errorf("more than %d names", maxHosts)
		}
		if err := CheckHostName(item); err != nil {
			return nil, err
		}
		return []string{item}, nil
	}
	return appendRange(nil, stem, first, last, "", limit)
}

func appendRange(names []string, before, first, last, after string, limit int) ([]string, error) {
	if !isNumber(first) || !isNumber(last) {
		return nil, fmt.Errorf("%q to %q: want numbers", first, last)
	}
	a, err1 := strconv.ParseUint(first, 10, 32)
	b, err2 := strconv.ParseUint(last, 10, 32)
	if err1 != nil || err2 != nil || b < a {
		return nil, fmt.Errorf("range from %s to %s: want a number and one that is not smaller", first, last)
	}
	if b-a >= uint64(max(limit-len(names), 0)) {
		return nil, fmt.Errorf("more than %d names", maxHosts)
	}
	width := 0
	if strings.HasPrefix(first, "0") {
		width = len(first)
	}
	for i := a; i <= b; i++ {
		name := fmt.Sprintf("%s%0*d%s", before, width, i, after)
		if err := CheckHostName(name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// FormatHostList writes names as a short host list, n[1-3,7],rack1, that
// ParseHostList expands to the same names, sorted.
func FormatHostList(names []string) string {
	type numbered struct {
		stem, digits string
		n            uint64
	}
	groups := map[string][]numbered{} // by stem and width
	var items []string
	for _, name := range names {
		stem := strings.TrimRight(name, "0123456789")
		digits := name[len(stem):]
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || stem == "" {
			items = append(items, name)
			continue
		}
		key := stem
		if digits[0] == '0' {
			key += " " + strconv.Itoa(len(digits))
		}
		groups[key] = append(groups[key], numbered{stem, digits, n})
	}
	for _, g := range groups {
		slices.SortFunc(g, func(a, b numbered) int { return cmp.Compare(a.n, b.n) })
		g = slices.CompactFunc(g, func(a, b numbered) bool { return a.n == b.n })
		if len(g) == 1 {
			items = append(items, g[0].stem+g[0].digits)
			continue
		}
		var ranges []string
		for i := 0; i < len(g); {
			j := i
			for j+1 < len(g) && g[j+1].n == g[j].n+1 && len(g[j+1].digits) >= len(g[j].digits) {
				j++
			}
			if i == j {
				ranges = append(ranges, g[i].digits)
			} else {
				ranges = append(ranges, g[i].digits+"-"+g[j].digits)
			}
			i = j + 1
		}
		items = append(items, g[0].stem+"["+strings.Join(ranges, ",")+"]")
	}
	slices.Sort(items)
	return strings.Join(slices.Compact(items), ",")
}

// CheckHostName tells whether a node may have that name: a host name of one
// label (RFC 1123 2.1), lower case, that is neither all digits nor begins
// like an address.
func CheckHostName(name string) error {
	ok := len(name) >= 1 && len(name) <= 63 && isLower(name[0])
	for i := range len(name) {
		c := name[i]
		ok = ok && (isLower(c) || c >= '0' && c <= '9' || c == '-')
	}
	if !ok || strings.HasSuffix(name, "-") {
		return fmt.Errorf("%q cannot be the name of a node: want a lower-case letter, then letters, digits and dashes, at most 63", name)
	}
	return nil
}

// CompareNames orders names as people count: n2 comes before n10.
func CompareNames(a, b string) int {
	for {
		if a == "" || b == "" {
			return cmp.Compare(a, b)
		}
		da, db := digitsOf(a), digitsOf(b)
		if da != "" && db != "" {
			na, nb := strings.TrimLeft(da, "0"), strings.TrimLeft(db, "0")
			if c := cmp.Or(cmp.Compare(len(na), len(nb)), cmp.Compare(na, nb), cmp.Compare(len(da), len(db))); c != 0 {
				return c
			}
			a, b = a[len(da):], b[len(db):]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
}

func digitsOf(s string) string {
	return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == "" && len(s) <= 9
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' }

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
