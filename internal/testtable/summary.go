package main

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// event is a line of go test -json (cmd/test2json, and cmd/go for builds).
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64
	Output  string
}

// result is what became of a test.
type result struct {
	name   string
	action string // pass, fail, skip; "" while it runs
	reason string // why it was skipped
	output []string
	parent bool // it has subtests
}

// pkg is what became of a package.
type pkg struct {
	name    string
	action  string // pass, fail, skip (no tests); "" while it runs
	seconds float64
	tests   map[string]*result
	order   []string
	output  []string // its own lines
}

// summary collects the events of a run.
type summary struct {
	pkgs map[string]*pkg
}

func newSummary() *summary { return &summary{pkgs: map[string]*pkg{}} }

// line takes a line of input and returns what is to be printed now. A line
// that is no event is printed as it is.
func (s *summary) line(line []byte) string {
	var e event
	if err := json.Unmarshal(line, &e); err != nil || e.Action == "" {
		return string(line)
	}
	if e.Action == "build-output" {
		return e.Output
	}
	if e.Package == "" {
		return ""
	}
	p := s.pkgs[e.Package]
	if p == nil {
		p = &pkg{name: e.Package, tests: map[string]*result{}}
		s.pkgs[e.Package] = p
	}
	if e.Test == "" {
		return p.event(e)
	}
	return p.test(e.Test).event(e)
}

// event takes an event of the package itself. Its lines are printed when it ends,
// together with what tests wrote that did not end.
func (p *pkg) event(e event) string {
	switch e.Action {
	case "output":
		p.output = append(p.output, e.Output)
	case "pass", "fail", "skip":
		p.action, p.seconds = e.Action, e.Elapsed
		var b strings.Builder
		for _, name := range p.order {
			if r := p.tests[name]; r.action == "" {
				r.action = "fail" // a panic or a timeout took it along
				writeAll(&b, r.output)
			}
		}
		for _, line := range p.output {
			if e.Action == "fail" || line != "PASS\n" {
				b.WriteString(line)
			}
		}
		return b.String()
	}
	return ""
}

func (p *pkg) test(name string) *result {
	r := p.tests[name]
	if r == nil {
		r = &result{name: name}
		p.tests[name] = r
		p.order = append(p.order, name)
		for i, c := range name {
			if parent := p.tests[name[:i]]; c == '/' && parent != nil {
				parent.parent = true
			}
		}
	}
	return r
}

// event takes an event of a test. What it wrote is printed when it failed.
func (r *result) event(e event) string {
	switch e.Action {
	case "output":
		if !framing.MatchString(e.Output) {
			r.output = append(r.output, e.Output)
		}
	case "pass", "fail", "skip":
		r.action = e.Action
		output := r.output
		r.output = nil
		if e.Action == "skip" {
			r.reason = skipReason(output)
		}
		if e.Action == "fail" {
			var b strings.Builder
			writeAll(&b, output)
			return b.String()
		}
	}
	return ""
}

func writeAll(b *strings.Builder, lines []string) {
	for _, l := range lines {
		b.WriteString(l)
	}
}

// framing is what go test writes around the output of a test with -v only.
var framing = regexp.MustCompile(`^=== (RUN|PAUSE|CONT|NAME|ATTR|ARTIFACTS) `)

// place is the source line in front of what a test logs.
var place = regexp.MustCompile(`^\s+[^\s:]+\.go:\d+: `)

// skipReason is the last thing that a skipped test logged.
func skipReason(output []string) string {
	for _, line := range slices.Backward(output) {
		if at := place.FindString(line); at != "" {
			return strings.TrimSpace(line[len(at):])
		}
	}
	return "no reason given"
}

// elsewhere is how the reason of a skip begins that is no lack: the test is
// run by another make target, or by another test that starts it anew, or it needs an archive that this
// computer does not reach.
var elsewhere = regexp.MustCompile(`^(only in make (test-net|test-vm|bench|bench-long|race|fuzz)\b|run by Test[A-Z]|not run: the archive cannot be reached)`)

// counts are the figures of a row.
type counts struct{ tests, passed, failed, skipped int }

// count counts tests that have no subtests, and those that failed by themselves.
func (p *pkg) count() counts {
	var c counts
	for _, name := range p.order {
		r := p.tests[name]
		if r.parent && !(r.action == "fail" && !p.childFailed(name)) {
			continue
		}
		c.tests++
		switch r.action {
		case "pass":
			c.passed++
		case "skip":
			c.skipped++
		default:
			c.failed++
		}
	}
	if p.action != "pass" && p.action != "skip" && c.failed == 0 {
		c.failed++ // it was not built, or ended otherwise than by a test
	}
	return c
}

func (p *pkg) childFailed(name string) bool {
	return slices.ContainsFunc(p.order, func(n string) bool {
		return strings.HasPrefix(n, name+"/") && p.tests[n].action == "fail"
	})
}

// skip is a skipped test and why.
type skip struct {
	pkg, test, reason string
}

func (s *summary) skips() []skip {
	var all []skip
	for _, p := range s.sorted() {
		for _, name := range p.order {
			if r := p.tests[name]; r.action == "skip" {
				all = append(all, skip{p.name, name, r.reason})
			}
		}
	}
	return all
}

// sorted returns the packages that have tests or failed, by name.
func (s *summary) sorted() []*pkg {
	var all []*pkg
	for _, p := range s.pkgs {
		if len(p.order) > 0 || p.action != "skip" && p.action != "pass" {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *pkg) int { return strings.Compare(a.name, b.name) })
	return all
}

// passed reports whether everything that ran passed, and something ran.
func (s *summary) passed(needAll bool) bool {
	ran := 0
	for _, p := range s.pkgs {
		c := p.count()
		ran += c.tests
		if c.failed > 0 {
			return false
		}
	}
	return ran > 0 && (!needAll || len(s.lacks()) == 0)
}

// lacks are the skips that are failures when everything has to be there.
func (s *summary) lacks() []skip {
	return slices.DeleteFunc(s.skips(), func(k skip) bool { return elsewhere.MatchString(k.reason) })
}
