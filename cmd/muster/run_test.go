package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

func TestRunSpec(t *testing.T) {
	one := runFlags{tasks: 1, cores: 1, stdin: "all"}
	with := func(change func(*runFlags)) runFlags {
		f := one
		change(&f)
		return f
	}
	tests := map[string]struct {
		flags runFlags
		args  []string
		err   string // "" for none
	}{
		"plain":         {one, []string{"hostname"}, ""},
		"no command":    {one, nil, "no command to run"},
		"no tasks":      {with(func(f *runFlags) { f.tasks = 0 }), []string{"true"}, "at least one task"},
		"no cores":      {with(func(f *runFlags) { f.cores = 0 }), []string{"true"}, "at least one core"},
		"slurm's -t":    {with(func(f *runFlags) { f.tty = true }), []string{"10", "./x"}, "muster run timeout 10m ./x"},
		"slurm's time":  {with(func(f *runFlags) { f.time = "1:00" }), []string{"./x"}, "--time 1:00 is how Slurm"},
		"terminal":      {with(func(f *runFlags) { f.tty = true }), []string{"sh"}, ""},
		"nobody's":      {with(func(f *runFlags) { f.tty, f.detach = true, true }), []string{"sh"}, "muster job attach"},
		"stdin":         {with(func(f *runFlags) { f.stdin = "some" }), []string{"sh"}, "all, first or none"},
		"private -o":    {with(func(f *runFlags) { f.alone, f.output = true, "out" }), []string{"sh"}, "name a file on a share"},
		"memory":        {with(func(f *runFlags) { f.mem = "512" }), []string{"true"}, "512M or 2G"},
		"host list":     {with(func(f *runFlags) { f.on = "n[1-" }), []string{"true"}, "--on"},
		"allowed":       {with(func(f *runFlags) { f.allow = []string{"containers"} }), []string{"true"}, ""},
		"not allowed":   {with(func(f *runFlags) { f.allow = []string{"root"} }), []string{"true"}, "--allow root: what can be allowed is containers"},
		"absolute file": {with(func(f *runFlags) { f.send = []string{"/bin/sh"} }), []string{"true"}, "below the working directory"},
		"file above":    {with(func(f *runFlags) { f.send = []string{"../x"} }), []string{"true"}, "below the working directory"},
		"file below":    {with(func(f *runFlags) { f.send = []string{"./a/../b"} }), []string{"true"}, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := tc.flags.spec(tc.args)
			switch {
			case tc.err == "" && err != nil:
				t.Errorf("spec() failed: %v", err)
			case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
				t.Errorf("spec() = %v, want an error with %q", err, tc.err)
			}
		})
	}
}

func TestParseMemory(t *testing.T) {
	for s, want := range map[string]int64{"": 0, "512M": 512, "2G": 2048, "1t": 1 << 20} {
		got, err := parseMemory(s)
		if err != nil || got != want {
			t.Errorf("parseMemory(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"M", "-1G", "0M", "1", "1k", "99999999999999999999G"} {
		if got, err := parseMemory(s); err == nil {
			t.Errorf("parseMemory(%q) = %d, want an error", s, got)
		}
	}
}

func TestPrefixer(t *testing.T) {
	var out, errOut strings.Builder
	p := newPrefixer(&out, &errOut, 12)
	steps := []struct {
		task   int
		stream api.Stream
		data   string
	}{
		{0, api.Stdout, "be"}, {11, api.Stdout, "one\ntwo\n"}, {0, api.Stdout, "gin\nno end"}, {0, api.Stderr, "bad\n"},
	}
	for _, s := range steps {
		if err := p.write(s.task, s.stream, []byte(s.data)); err != nil {
			t.Fatal(err)
		}
	}
	p.flush()
	want := "11: one\n11: two\n 0: begin\n 0: no end\n"
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("output differs (-want +got):\n%s", d)
	}
	if got, want := errOut.String(), " 0: bad\n"; got != want {
		t.Errorf("errors are %q, want %q", got, want)
	}
}

// A line without an end must not grow without bound.
func TestPrefixerBoundsLines(t *testing.T) {
	var out strings.Builder
	p := newPrefixer(&out, &out, 1)
	for range 64 {
		if err := p.write(0, api.Stdout, make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(p.partial[lineKey{0, api.Stdout}]); n >= maxLine {
		t.Errorf("%d bytes are held back, want less than %d", n, maxLine)
	}
}

func TestHeadUnitQuotes(t *testing.T) {
	unit := headUnit("/opt/my muster/bin", []string{"--interface=eth1", "--image=/srv/50% done"})
	want := `ExecStart="/opt/my muster/bin" head --interface=eth1 "--image=/srv/50%% done"` + "\n"
	if !strings.Contains(unit, want) {
		t.Errorf("unit lacks %q:\n%s", want, unit)
	}
}
