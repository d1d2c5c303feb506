package kmod

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

func TestFnmatch(t *testing.T) {
	t.Parallel()
	tests := []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true},
		{"", "a", false},
		{"a", "", false},
		{"*", "", true},
		{"*", "a/b.c", true},
		{"?", "", false},
		{"?", "/", true},
		{"a?c", "abc", true},
		{"a?c", "ac", false},
		{"*a*b*c", "xaxbxc", true},
		{"*a*b*c", "xaxcxb", false},
		{"**a", "a", true},
		{"[abc]x", "bx", true},
		{"[abc]x", "dx", false},
		{"[a-c]", "b", true},
		{"[a-c]", "-", false},
		{"[!a-c]", "d", true},
		{"[!a-c]", "b", false},
		{"[^a]", "b", true},
		{"[]a]", "]", true},
		{"[a-]", "-", true},
		{"[a-]", "b", false},
		{"[!]]", "a", true},
		{"[!]]", "]", false},
		{"[abc", "[abc", true},
		{"[", "[", true},
		{"[", "a", false},
		{"a[", "a[", true},
		{`\*`, "*", true},
		{`\*`, "a", false},
		{`\`, `\`, true},
		{`a\?b`, "a?b", true},
	}
	for _, tt := range tests {
		if got := fnmatch(tt.pattern, tt.s); got != tt.want {
			t.Errorf("fnmatch(%q, %q) = %v, want %v", tt.pattern, tt.s, got, tt.want)
		}
	}
}

// A pattern of many stars must not take exponential time.
func TestFnmatchTime(t *testing.T) {
	t.Parallel()
	if fnmatch(strings.Repeat("a*", 200)+"b", strings.Repeat("a", 5000)) {
		t.Error("matches")
	}
}

// slowMatch is fnmatch by way of a regular expression.
func slowMatch(pattern, s string) (match, ok bool) {
	var b strings.Builder
	for _, c := range pattern {
		switch c {
		case '*':
			b.WriteString(`(?s:.*)`)
		case '?':
			b.WriteString(`(?s:.)`)
		default:
			b.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	re, err := regexp.Compile(`\A(?:` + b.String() + `)\z`)
	if err != nil {
		return false, false
	}
	return re.MatchString(s), true
}

func FuzzFnmatch(f *testing.F) {
	f.Add("pci:v*d*", "pci:v1d2")
	f.Add("*a?b**", "xxaabb")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		got := fnmatch(pattern, s)
		if strings.ContainsAny(pattern, `[\`) || !isASCII(pattern) || !isASCII(s) {
			return
		}
		if want, ok := slowMatch(pattern, s); ok && got != want {
			t.Errorf("fnmatch(%q, %q) = %v, want %v", pattern, s, got, want)
		}
	})
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// The buckets must find what trying every pattern finds.
func TestMatcherFindsAll(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	const letters = "ab-_:*?"
	word := func(set string) string {
		b := make([]byte, rnd.IntN(7))
		for i := range b {
			b[i] = set[rnd.IntN(len(set))]
		}
		return string(b)
	}
	var aliases []Alias
	for i := range 500 {
		aliases = append(aliases, Alias{Pattern: word(letters), Module: fmt.Sprint("m", i)})
	}
	m := newMatcher(aliases)
	hits := 0
	for range 500 {
		s := word(letters[:5])
		var want []string
		for _, a := range aliases {
			if ok, _ := slowMatch(underscores(a.Pattern), underscores(s)); ok {
				want = append(want, a.Module)
			}
		}
		if got := m.find(s); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("find(%q) = %v, want %v", s, got, want)
		}
		hits += len(want)
	}
	if hits < 1000 {
		t.Errorf("only %d matches: the comparison says little", hits)
	}
}

func BenchmarkFind(b *testing.B) {
	var aliases []Alias
	for i := range 26000 {
		aliases = append(aliases, Alias{Pattern: fmt.Sprintf("pci:v%08Xd%08Xsv*sd*bc*sc*i*", i/200, i), Module: "m"})
	}
	m := newMatcher(aliases)
	for b.Loop() {
		m.find("pci:v00000022d00001AF4sv00001AF4sd00001100bc01sc06i01")
	}
}
