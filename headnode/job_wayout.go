package headnode

import (
	"strings"

	"muster/headnode/packages"
)

// wayOut adds to what a node says of a task that could not start how to have what is missing. The
// texts are those of cmd/muster-init/start.go and nodeagent/task/program.go.
func wayOut(text string) string {
	if name, ok := strings.CutSuffix(text, ": command not found on this node"); ok {
		return text + "; " + install(name) + ", send the program along (--send FILE), or put it on a share"
	}
	if _, rest, ok := strings.Cut(text, ": it needs "); ok {
		if name, _, ok := strings.Cut(rest, ", which this node does not have"); ok {
			return text + "; " + install(name) + ", or put it on a share"
		}
	}
	if rest, ok := strings.CutPrefix(text, "library "); ok {
		if name, _, ok := strings.Cut(rest, " is not in the node's userland"); ok {
			return text + "; " + install(name) + ", link the program statically, or put the library on a share and name its folder in LD_LIBRARY_PATH"
		}
	}
	return text
}

// install says how to have a command or a library in the image.
func install(name string) string {
	pkg := packages.Find(name)
	if pkg == "" {
		return "add the Debian package that has it under packages: in the image definition"
	}
	return "Debian's package " + pkg + " has it: add \"- " + pkg + "\" under packages: in the image definition and build the image again"
}
