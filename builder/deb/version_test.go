package deb

import (
	"testing"

	"pgregory.net/rapid"
)

func TestCompareVersions(t *testing.T) {
	// Each line is in ascending order.
	for _, line := range [][]string{
		{"0~~", "0~~a", "0~", "0", "0a", "0+", "0.0"},
		{"1.0~beta1~svn1245", "1.0~beta1", "1.0"},
		{"1.0-1~bpo1", "1.0-1", "1.0-1+b1", "1.0-1.1", "1.0-2"},
		{"1.2.3", "1.2.10", "1.10.3", "2.0"},
		{"6.12.9-1", "6.12.10-1", "6.12.100-1", "6.12.118-1"},
		{"1.0", "1:0.1", "2:0"},
		{"1a", "1b", "1+", "1.", "1.a"},
		{"1.0A", "1.0a"},
		{"6.12.115+deb13", "6.12.115+deb13.1"},
		{"99999999999999999999", "100000000000000000000"},
	} {
		for i := range line {
			for j := range line {
				if got, want := sign(CompareVersions(line[i], line[j])), sign(i-j); got != want {
					t.Errorf("CompareVersions(%q, %q) = %d, want %d", line[i], line[j], got, want)
				}
			}
		}
	}
}

func TestCompareVersionsEqual(t *testing.T) {
	for _, pair := range [][2]string{
		{"1.0", "1.0"}, {"0:1.0", "1.0"}, {"1.0-0", "1.0"}, {"1.00", "1.0"}, {"1.a", "1.a"}, {"00:1", "1"}, {"1-", "1"},
	} {
		if c := CompareVersions(pair[0], pair[1]); c != 0 {
			t.Errorf("CompareVersions(%q, %q) = %d, want 0", pair[0], pair[1], c)
		}
	}
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

// TestCompareVersionsIsAnOrder holds for anything that an archive may send.
func TestCompareVersionsIsAnOrder(t *testing.T) {
	version := rapid.OneOf(
		rapid.StringMatching(`([0-3]:)?[0-9a~+.-]{0,8}(-[0-9a~+.]{0,4})?`),
		rapid.String(),
	)
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := version.Draw(t, "a"), version.Draw(t, "b"), version.Draw(t, "c")
		if CompareVersions(a, a) != 0 {
			t.Fatalf("%q is not equal to itself", a)
		}
		ab, ba, bc, ac := sign(CompareVersions(a, b)), sign(CompareVersions(b, a)), sign(CompareVersions(b, c)), sign(CompareVersions(a, c))
		if ab != -ba {
			t.Fatalf("%q and %q: %d one way, %d the other", a, b, ab, ba)
		}
		if ab <= 0 && bc <= 0 && ac > 0 {
			t.Fatalf("%q ≤ %q ≤ %q, but the first is later than the last", a, b, c)
		}
		if tilde := a + "~"; CompareVersions(tilde, a) >= 0 {
			t.Fatalf("%q is not before %q", tilde, a)
		}
	})
}

func TestSatisfies(t *testing.T) {
	for _, c := range []struct {
		v, op, want string
		ok          bool
	}{
		{"1.0", ">=", "1.0", true},
		{"1.0", ">>", "1.0", false},
		{"1.0", "<=", "1.0", true},
		{"1.0", "<<", "1.0", false},
		{"1.1", ">>", "1.0", true},
		{"0.9", "<<", "1.0", true},
		{"1.0", "=", "1.0", true},
		{"1.0-1", "=", "1.0", false},
	} {
		got, err := satisfies(c.v, c.op, c.want)
		if err != nil || got != c.ok {
			t.Errorf("satisfies(%s %s %s) = %v, %v; want %v", c.v, c.op, c.want, got, err, c.ok)
		}
	}
	if _, err := satisfies("1", "~=", "1"); err == nil {
		t.Error("an unknown relation is no error")
	}
}
