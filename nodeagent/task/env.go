package task

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"muster/api"
)

// basePath is where a node's own programs are.
const basePath = "/bbin:/bin:/usr/bin:/sbin:/usr/sbin"

// environment is what a task's program gets: what its user gave, with PATH,
// HOME and TMPDIR made to fit this node, and where it stands in its job.
// isDir tells whether a directory exists here.
func environment(t api.TaskStart, work string, isDir func(string) bool) []string {
	given, env := make(map[string]string, len(t.Env)), make([]string, 0, len(t.Env)+8)
	here := work
	if t.Dir != "" {
		here = api.DecodeText(t.Dir)
	}
	set := map[string]string{
		"MUSTER_JOB":   strconv.FormatUint(t.Job, 10),
		"MUSTER_TASK":  strconv.Itoa(t.Index),
		"MUSTER_TASKS": strconv.Itoa(t.Tasks),
		"MUSTER_NODE":  t.Node,
		"PWD":          here,
	}
	for _, kv := range t.Env {
		kv = api.DecodeText(kv)
		if name, value, ok := strings.Cut(kv, "="); ok && name != "" {
			given[name] = value
		}
	}
	set["PATH"] = searchPath(given["PATH"])
	if !isDir(given["HOME"]) {
		set["HOME"] = work
	}
	if !isDir(given["TMPDIR"]) {
		set["TMPDIR"] = "/tmp"
	}
	for _, kv := range t.Env {
		kv = api.DecodeText(kv)
		name, _, ok := strings.Cut(kv, "=")
		if _, ours := set[name]; ok && name != "" && !ours {
			env = append(env, kv)
		}
	}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "PWD", "MUSTER_JOB", "MUSTER_TASK", "MUSTER_TASKS", "MUSTER_NODE"} {
		if v, ok := set[name]; ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// searchPath is the user's PATH with the node's own folders behind it.
func searchPath(given string) string {
	if given == "" {
		return basePath
	}
	have := strings.Split(given, ":")
	for _, dir := range strings.Split(basePath, ":") {
		if !slices.Contains(have, dir) {
			have = append(have, dir)
		}
	}
	return strings.Join(have, ":")
}

// privateFolders are the folders that a task sees as its own, empty but for
// its working directory: those that exist here. The agent's own folder is one
// of them or in one of them.
func privateFolders(agent string, isDir func(string) bool) []string {
	var out []string
	for _, dir := range []string{"/run", "/tmp", "/var/tmp", agent} {
		within := slices.ContainsFunc(out, func(o string) bool {
			rel, err := filepath.Rel(o, dir)
			return err == nil && filepath.IsLocal(rel)
		})
		if !within && isDir(dir) {
			out = append(out, dir)
		}
	}
	return out
}

// isRealDir tells whether path is an absolute path of a directory and not of
// a link: a mount on a link would land on what it points to.
func isRealDir(path string) bool {
	if !filepath.IsAbs(path) {
		return false
	}
	fi, err := os.Lstat(path)
	return err == nil && fi.IsDir()
}
