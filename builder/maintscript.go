package builder

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxUnrolled bounds what one line of a script becomes in its loops.
const maxUnrolled = 256

var (
	shellAssignment = regexp.MustCompile(`^\s*(?:export\s+)?([A-Za-z_]\w*)=("[^"$` + "`" + `]*"|'[^'$` + "`" + `]*'|[^\s"'$` + "`" + `;&|()]*)\s*(?:;(.*)|#.*)?$`)
	shellLoop       = regexp.MustCompile(`^\s*for\s+([A-Za-z_]\w*)\s+in\s+([^;$` + "`" + `*?()]+?)\s*(?:;.*)?$`)
	shellVariable   = regexp.MustCompile(`\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))`)
)

// knownLines are the lines of a shell script with its constants in the place of their names, a line of
// a loop over constants as often as it is run. Conditions are not looked at, and of a variable that is
// set to something else too, which only a shell could tell, the constant counts. So what is read from
// the lines is a guess, which has to fit what the packages have.
func knownLines(script string) []string {
	vars := make(map[string][]string)
	var out []string
	for line := range strings.Lines(strings.ReplaceAll(script, "\\\n", " ")) {
		line = strings.TrimRight(line, "\n")
		lines := unroll(line, vars, nil)
		if m := shellLoop.FindStringSubmatch(lines[0]); m != nil && len(lines) == 1 {
			vars[m[1]] = strings.Fields(strings.NewReplacer(`"`, "", `'`, "").Replace(m[2]))
			continue
		}
		for len(lines) == 1 {
			m := shellAssignment.FindStringSubmatch(lines[0])
			if m == nil {
				break
			}
			vars[m[1]] = []string{strings.Trim(m[2], `"'`)}
			lines = unroll(m[3], vars, nil)
		}
		out = append(out, lines...)
	}
	return out
}

// unroll puts each value of the variables of a line in their place. Names in open stay.
func unroll(line string, vars map[string][]string, open []string) []string {
	for _, m := range shellVariable.FindAllStringSubmatch(line, -1) {
		name := m[1] + m[2]
		values := vars[name]
		if len(values) == 0 || slices.Contains(open, name) {
			continue
		}
		var out []string
		for _, v := range values {
			one := shellVariable.ReplaceAllStringFunc(line, func(ref string) string {
				if strings.Trim(ref, "${}") == name {
					return v
				}
				return ref
			})
			out = append(out, unroll(one, vars, append(slices.Clip(open), name))...)
			if len(out) > maxUnrolled {
				return []string{line}
			}
		}
		return out
	}
	return []string{line}
}

// shellWords are the words of a simple command, without quotes.
func shellWords(call string) []string {
	return strings.Fields(strings.NewReplacer(`"`, "", `'`, "", ";", " ").Replace(call))
}

func literal(words []string) bool {
	return !slices.ContainsFunc(words, func(w string) bool { return strings.ContainsAny(w, "$`*?(){}") })
}

// alternative is one way to provide a command that several packages have.
type alternative struct {
	link, name, path string
	priority         int
	slaves           [][3]string // link, name, path
}

// alternativesIn finds the calls of update-alternatives --install in a shell
// script. Of a call whose words are not known, that word and what belongs to it is left out.
func alternativesIn(script string) []alternative {
	var out []alternative
	for _, line := range knownLines(script) {
		_, call, ok := strings.Cut(line, "update-alternatives ")
		if !ok {
			continue
		}
		words := shellWords(call)
		var a *alternative
		for i := 0; i < len(words); i++ {
			switch {
			case words[i] == "--install" && i+4 < len(words) && literal(words[i+1:i+4]):
				priority, err := strconv.Atoi(words[i+4])
				if err == nil {
					a = &alternative{link: words[i+1], name: words[i+2], path: words[i+3], priority: priority}
				}
				i += 4
			case words[i] == "--slave" && a != nil && i+3 < len(words):
				if literal(words[i+1 : i+4]) {
					a.slaves = append(a.slaves, [3]string{words[i+1], words[i+2], words[i+3]})
				}
				i += 3
			}
		}
		if a != nil && !strings.Contains(a.name, "/") {
			out = append(out, *a)
		}
	}
	return out
}

var shellCopy = regexp.MustCompile(`^\s*(?:cat|cp)\s+(?:-\w+\s+)*"?(/[^\s"$]+)"?\s+(?:>\s*)?"?\$\{?(\w+)\}?"?\s*(?:;.*|#.*)?$`)

// configuredIn finds the files that a script puts into place with ucf(1), which asks the administrator
// about changes where there is one: where each goes, and which file of the packages it comes from. A copy of such
// a file that the script makes first and may change stands for the file.
func configuredIn(script string) map[string]string {
	out, copies := make(map[string]string), make(map[string]string)
	for _, line := range knownLines(script) {
		if m := shellCopy.FindStringSubmatch(line); m != nil {
			copies[m[2]] = m[1]
			continue
		}
		words := shellWords(line)
		at := slices.IndexFunc(words, func(w string) bool { return w == "ucf" || w == "/usr/bin/ucf" })
		if at < 0 || at > 0 && !slices.Contains([]string{"then", "else", "do", "&&", "||"}, words[at-1]) {
			continue
		}
		words = slices.DeleteFunc(words[at+1:], func(w string) bool { return strings.HasPrefix(w, "-") })
		if len(words) < 2 || !strings.HasPrefix(words[1], "/") || !literal(words[1:2]) {
			continue
		}
		from := words[0]
		if original := copies[strings.Trim(from, "${}")]; original != "" {
			from = original
		}
		if strings.HasPrefix(from, "/") && literal([]string{from}) {
			out[words[1]] = from
		}
	}
	return out
}
