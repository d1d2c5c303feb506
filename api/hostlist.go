package api

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// MaxHosts is the most names that one host list may stand for.
const MaxHosts = 10000

// ParseHostList reads a list of nodes as people write it: names separated by
// commas or blanks, n[1-10,14] for n1 to n10 and n14, n[01-03] with leading
// zeros, n1-10 as a short form of n[1-10]. Names come back in the order in
// which they were written, each once. An empty list is no error.
func ParseHostList(s string) ([]string, error) {
	words, err := splitHosts(s)
	if err != nil {
		return nil, err
	}
	var names []string
	seen := map[string]bool{}
	for _, w := range words {
		expanded, err := expandHost(w)
		if err != nil {
			return nil, fmt.Errorf("host list %q: %w", s, err)
		}
		for _, n := range expanded {
			if !seen[n] {
				seen[n] = true
				names = append(names, n)
			}
		}
		if len(names) > MaxHosts {
			return nil, fmt.Errorf("host list %q stands for more than %d nodes", s, MaxHosts)
		}
	}
	return names, nil
}

// splitHosts splits at commas and blanks outside of brackets.
func splitHosts(s string) ([]string, error) {
	var words []string
	start, depth := 0, 0
	for i, c := range s + "," {
		switch {
		case c == '[':
			depth++
		case c == ']':
			depth--
		case depth == 0 && strings.ContainsRune(", \t\n", c):
			if i > start {
				words = append(words, s[start:i])
			}
			start = i + 1
		}
		if depth < 0 || depth > 1 {
			return nil, fmt.Errorf("host list %q: brackets do not match", s)
		}
	}
	if depth != 0 {
		return nil, fmt.Errorf("host list %q: a bracket is not closed", s)
	}
	return words, nil
}

// expandHost expands one word, with any number of bracket groups.
func expandHost(w string) ([]string, error) {
	open := strings.IndexByte(w, '[')
	if open < 0 {
		return expandShort(w)
	}
	end := strings.IndexByte(w, ']')
	if end < open {
		return nil, fmt.Errorf("brackets of %q do not match", w)
	}
	rest := []string{""}
	if tail := w[end+1:]; tail != "" {
		if !strings.Contains(tail, "[") {
			if err := checkHost(tail); err != nil {
				return nil, err
			}
			rest = []string{tail}
		} else {
			var err error
			if rest, err = expandHost(tail); err != nil {
				return nil, err
			}
		}
	}
	var names []string
	for part := range strings.SplitSeq(w[open+1:end], ",") {
		lo, hi, isRange := strings.Cut(part, "-")
		if !isRange {
			hi = lo
		}
		numbers, err := expandRange(lo, hi)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", w, err)
		}
		if len(numbers)*len(rest)+len(names) > MaxHosts {
			return nil, fmt.Errorf("%q stands for more than %d nodes", w, MaxHosts)
		}
		for _, n := range numbers {
			for _, r := range rest {
				names = append(names, w[:open]+n+r)
			}
		}
	}
	for _, n := range names[:1] {
		if err := checkHost(n); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// expandShort reads n1-10 as n[1-10] and anything else as a name.
func expandShort(w string) ([]string, error) {
	if err := checkHost(w); err != nil {
		return nil, err
	}
	head, hi, ok := cutLast(w, "-")
	lo := head[len(strings.TrimRight(head, "0123456789")):]
	if !ok || lo == "" || hi == "" || strings.Trim(hi, "0123456789") != "" {
		return []string{w}, nil
	}
	numbers, err := expandRange(lo, hi)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", w, err)
	}
	for i, n := range numbers {
		numbers[i] = head[:len(head)-len(lo)] + n
	}
	return numbers, nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// expandRange lists lo to hi with the width of lo.
func expandRange(lo, hi string) ([]string, error) {
	a, err1 := strconv.ParseUint(lo, 10, 31)
	b, err2 := strconv.ParseUint(hi, 10, 31)
	switch {
	case err1 != nil || err2 != nil:
		return nil, fmt.Errorf("%s-%s is not a range of numbers", lo, hi)
	case b < a:
		return nil, fmt.Errorf("range %s-%s runs backwards", lo, hi)
	case b-a >= MaxHosts:
		return nil, fmt.Errorf("range %s-%s has more than %d numbers", lo, hi, MaxHosts)
	case len(lo) > 20:
		return nil, fmt.Errorf("number %s is too long", lo)
	}
	out := make([]string, 0, b-a+1)
	for n := a; n <= b; n++ {
		out = append(out, fmt.Sprintf("%0*d", len(lo), n))
	}
	return out, nil
}

func checkHost(s string) error {
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_') {
			return fmt.Errorf("%q is not a name of a node: it holds %q", s, c)
		}
	}
	return nil
}

// FormatHostList is the short form of a list of names: n[1-3,7] for n1, n2,
// n3 and n7. It sorts them by prefix and number; [ParseHostList] gives the same set.
func FormatHostList(names []string) string {
	type group struct {
		prefix string
		width  int
	}
	numbers := map[group][]int{}
	var order []group
	var out []string
	for _, n := range slices.Compact(slices.Sorted(slices.Values(names))) {
		prefix := strings.TrimRight(n, "0123456789")
		digits := n[len(prefix):]
		num, err := strconv.ParseUint(digits, 10, 31)
		if err != nil {
			out = append(out, n)
			continue
		}
		g := group{prefix, 0}
		if digits[0] == '0' {
			g.width = len(digits)
		}
		if numbers[g] == nil {
			order = append(order, g)
		}
		numbers[g] = append(numbers[g], int(num))
	}
	for _, g := range order {
		out = append(out, g.prefix+formatNumbers(numbers[g], g.width))
	}
	return strings.Join(out, ",")
}

func formatNumbers(n []int, width int) string {
	slices.Sort(n)
	var parts []string
	for i := 0; i < len(n); {
		k := i
		for k+1 < len(n) && n[k+1] == n[k]+1 {
			k++
		}
		p := fmt.Sprintf("%0*d", width, n[i])
		if k > i {
			p += fmt.Sprintf("-%0*d", width, n[k])
		}
		parts = append(parts, p)
		i = k + 1
	}
	if len(parts) == 1 && !strings.Contains(parts[0], "-") {
		return parts[0]
	}
	return "[" + strings.Join(parts, ",") + "]"
}
