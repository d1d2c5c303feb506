package headnode

import (
	"testing"

	"muster/api"
)

func TestAutoOutput(t *testing.T) {
	shares := []string{"/home", "/srv/ro"}
	writable := func(s string) bool { return s != "/srv/ro" }
	one := api.JobSpec{AutoOutput: true, Detached: true, Dir: "/home/u/work", Name: "long", Tasks: 1}
	with := func(change func(*api.JobSpec)) api.JobSpec {
		s := one
		change(&s)
		return s
	}
	for name, c := range map[string]struct {
		spec api.JobSpec
		want string // of the second task of job 17
	}{
		"one task":          {one, "/home/u/work/long-17.out"},
		"several":           {with(func(s *api.JobSpec) { s.Tasks = 2 }), "/home/u/work/long-17-1.out"},
		"signs in names":    {with(func(s *api.JobSpec) { s.Dir, s.Name = "/home/100%t", "a/b\n%j" }), "/home/100%t/a_b_%j-17.out"},
		"other bytes":       {with(func(s *api.JobSpec) { s.Dir = api.EncodeText("/home/\xff") }), api.EncodeText("/home/\xff/long-17.out")},
		"not asked for":     {with(func(s *api.JobSpec) { s.AutoOutput = false }), ""},
		"somebody waits":    {with(func(s *api.JobSpec) { s.Detached = false }), ""},
		"private":           {with(func(s *api.JobSpec) { s.Private = true }), ""},
		"in no share":       {with(func(s *api.JobSpec) { s.Dir = "/root" }), ""},
		"only to be read":   {with(func(s *api.JobSpec) { s.Dir = "/srv/ro/x" }), ""},
		"named by its user": {with(func(s *api.JobSpec) { s.Output = "/home/o" }), "/home/o"},
	} {
		if got := taskFile(autoOutput(c.spec, shares, writable).Output, 17, 1); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
