package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// finish prints the closing lines of every package and the table.
func (s *summary) finish(out io.Writer, needAll bool) {
	pkgs := s.sorted()
	fmt.Fprintln(out)
	for _, p := range pkgs {
		fmt.Fprint(out, p.closing())
	}
	fmt.Fprintln(out)

	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name string, c counts, seconds float64) {
		fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%.1f\t  %s\n", c.tests, c.passed, c.failed, c.skipped, seconds, name)
	}
	fmt.Fprintln(w, "tests\tpassed\tfailed\tskipped\tseconds\t  package")
	var all counts
	var seconds float64
	for _, p := range pkgs {
		c := p.count()
		row(p.name, c, p.seconds)
		all = counts{all.tests + c.tests, all.passed + c.passed, all.failed + c.failed, all.skipped + c.skipped}
		seconds += p.seconds
	}
	row(fmt.Sprintf("all %d packages", len(pkgs)), all, seconds)
	w.Flush()

	if skips := s.skips(); len(skips) > 0 {
		fmt.Fprintln(out, "\nskipped:")
		for _, k := range skips {
			fmt.Fprintf(out, "  %s %s: %s\n", k.pkg, k.test, k.reason)
		}
	}
	if lacks := s.lacks(); needAll && len(lacks) > 0 {
		fmt.Fprintf(out, "\nFAIL: %d skipped with MUSTER_NEED=all; install what is missing (make deps), or run without it\n", len(lacks))
	}
	if all.tests == 0 {
		fmt.Fprintln(out, "\nFAIL: no test ran")
	}
}

// closing is the line with which go test closed the package.
func (p *pkg) closing() string {
	for i := len(p.output) - 1; i >= 0; i-- {
		if line := p.output[i]; strings.HasPrefix(line, "ok ") || strings.HasPrefix(line, "FAIL\t") {
			return line
		}
	}
	if p.action == "" {
		return fmt.Sprintf("FAIL\t%s\t[did not end]\n", p.name)
	}
	return fmt.Sprintf("FAIL\t%s\t%.3fs\n", p.name, p.seconds)
}
