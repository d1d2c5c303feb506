package api

import (
	"encoding/base64"
	"strings"
	"unicode/utf8"
)

// coded marks a string that is not UTF-8. No argument, variable or path can begin with
// a zero byte, so nothing else is taken for one.
const coded = "\x00"

// EncodeText returns s as it travels in JSON: arguments, environment and paths
// are bytes on Linux, and JSON knows only UTF-8. What is not UTF-8 becomes a zero byte and
// the base64 of s; all else stays as it is.
func EncodeText(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return coded + base64.StdEncoding.EncodeToString([]byte(s))
}

// DecodeText is the inverse of [EncodeText]. A string that is not well formed is
// returned as it is; its zero byte makes every use of it fail.
func DecodeText(s string) string {
	rest, ok := strings.CutPrefix(s, coded)
	if !ok {
		return s
	}
	b, err := base64.StdEncoding.DecodeString(rest)
	if err != nil || utf8.Valid(b) {
		return s
	}
	return string(b)
}
