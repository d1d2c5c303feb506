package deb

import (
	"regexp"
	"strings"
)

// License is a license that a copyright file names.
type License struct {
	Name string // as the file has it: GPL-2+ or MIT
	Text string // where the file has it
}

// copyrightFormat begins a copyright file that machines can read (DEP 5).
var copyrightFormat = regexp.MustCompile(`(?m)^Format(-Specification)?:\s*\S*(copyright-format|dep5|DEP5|CopyrightFormat)`)

// ParseCopyright returns the licenses that a package's copyright file names, each once, in
// the order of the file. ok is false where the file is prose, of which nothing is certain.
func ParseCopyright(text string) (licenses []License, ok bool) {
	text = strings.ReplaceAll(text, "\r\n", "\n")
	head, _, _ := strings.Cut(strings.TrimLeft(text, "\n"), "\n\n")
	if !copyrightFormat.MatchString(head) {
		return nil, false
	}
	index := make(map[string]int)
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		name, body, found := licenseField(paragraph)
		if !found {
			continue
		}
		i, known := index[name]
		if !known {
			i = len(licenses)
			index[name] = i
			licenses = append(licenses, License{Name: name})
		}
		if licenses[i].Text == "" {
			licenses[i].Text = body
		}
	}
	return licenses, len(licenses) > 0
}

// licenseField returns the field License of a paragraph: its first line and the lines
// that go on below it.
func licenseField(paragraph string) (name, text string, found bool) {
	var body []string
	for line := range strings.SplitSeq(paragraph, "\n") {
		key, value, colon := strings.Cut(line, ":")
		switch {
		case found && strings.HasPrefix(line, "#"):
		case found && (strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t")):
			line = strings.TrimPrefix(strings.TrimPrefix(line, " "), "\t")
			if line == "." {
				line = ""
			}
			body = append(body, line)
		case found:
			return name, strings.Join(body, "\n"), true
		case colon && strings.EqualFold(key, "License"):
			name = strings.Join(strings.Fields(value), " ")
			found = name != ""
		}
	}
	return name, strings.Join(body, "\n"), found
}
