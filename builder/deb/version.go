package deb

import (
	"fmt"
	"strings"
)

// CompareVersions orders two versions as Debian Policy 5.6.12 says: negative
// where a is earlier than b, 0 where they are equal, positive where it is
// later. Any string is taken; what is no valid version still has its place in one
// total order.
func CompareVersions(a, b string) int {
	epochA, restA := cutEpoch(a)
	epochB, restB := cutEpoch(b)
	if c := compareDigits(epochA, epochB); c != 0 {
		return c
	}
	upstreamA, revisionA := cutRevision(restA)
	upstreamB, revisionB := cutRevision(restB)
	if c := compareParts(upstreamA, upstreamB); c != 0 {
		return c
	}
	return compareParts(revisionA, revisionB)
}

func cutEpoch(v string) (epoch, rest string) {
	if epoch, rest, ok := strings.Cut(v, ":"); ok && isDigits(epoch) {
		return epoch, rest
	}
	return "", v
}

// cutRevision splits at the last hyphen. No revision is the same as revision
// 0.
func cutRevision(v string) (upstream, revision string) {
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return v[:i], v[i+1:]
	}
	return v, ""
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// compareParts compares text and numbers in turn, beginning with text.
func compareParts(a, b string) int {
	for a != "" || b != "" {
		var textA, textB, numA, numB string
		textA, a = cutWhile(a, false)
		textB, b = cutWhile(b, false)
		if c := compareText(textA, textB); c != 0 {
			return c
		}
		numA, a = cutWhile(a, true)
		numB, b = cutWhile(b, true)
		if c := compareDigits(numA, numB); c != 0 {
			return c
		}
	}
	return 0
}

// cutWhile cuts off the longest beginning that has only digits, or none.
func cutWhile(s string, digits bool) (head, tail string) {
	for i := range len(s) {
		if isDigit(s[i]) != digits {
			return s[:i], s[i:]
		}
	}
	return s, ""
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// compareText orders by character: ~ before the end, the end before letters,
// letters before everything else.
func compareText(a, b string) int {
	for i := 0; i < len(a) || i < len(b); i++ {
		if c := orderAt(a, i) - orderAt(b, i); c != 0 {
			return c
		}
	}
	return 0
}

func orderAt(s string, i int) int {
	if i >= len(s) {
		return 0
	}
	switch c := s[i]; {
	case c == '~':
		return -1
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		return int(c)
	default:
		return int(c) + 256
	}
}

// compareDigits compares numbers of any length; no digits are 0.
func compareDigits(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// satisfies says whether version v fulfills a relation such as ">= 1.2".
func satisfies(v, op, want string) (bool, error) {
	c := CompareVersions(v, want)
	switch op {
	case "<<":
		return c < 0, nil
	case "<=":
		return c <= 0, nil
	case "=":
		return c == 0, nil
	case ">=":
		return c >= 0, nil
	case ">>":
		return c > 0, nil
	}
	return false, fmt.Errorf("%q is no relation between versions", op)
}
