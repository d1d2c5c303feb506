package headnode

import (
	"path"
	"strings"

	"muster/api"
)

// autoOutput names the file for the output of a detached job that names none: NAME-JOB.out in its
// working directory, with the task's number where there are several. A job that works in no share
// that can be written to has none: its output is kept here.
func autoOutput(s api.JobSpec, shares []string, writable func(share string) bool) api.JobSpec {
	if !s.AutoOutput || !s.Detached || s.Private || s.Output != "" || s.Terminal != nil {
		return s
	}
	dir := api.DecodeText(s.Dir)
	if in := shareOf(dir, shares); in == "" || writable != nil && !writable(in) {
		return s
	}
	name := strings.Map(func(r rune) rune {
		if r == '/' || r < ' ' || r == 0x7f {
			return '_'
		}
		return r
	}, s.Name)
	file := strings.ReplaceAll(path.Join(dir, name), "%", "%%") + "-%j"
	if s.Tasks > 1 {
		file += "-%t"
	}
	if file += ".out"; len(file) <= maxPath {
		s.Output = api.EncodeText(file)
	}
	return s
}
