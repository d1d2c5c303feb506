package archtest

import "strings"

// module is the import path of this module.
const module = "muster"

// part is a folder of the module with what it may import. The longest
// folder that contains a package decides for it. A part may always import
// packages below its own top folder.
type part struct {
	folder   string
	imports  []string // folders of this module, with all below them
	external []string // modules or packages of others; nil: any
}

// none is the list of external packages of a part that has only the standard library.
var none = []string{}

// agentExternal is all that the agent may link besides the standard library.
// It is carried by every initramfs and read into memory by every node.
var agentExternal = []string{
	"github.com/nats-io/nats.go",
	"github.com/nats-io/nkeys",
	"golang.org/x/sync",
	"golang.org/x/sys",
	"golang.org/x/sync",
	"github.com/vishvananda/netlink",
	"github.com/insomniacslk/dhcp",
	"golang.org/x/net/dns/dnsmessage",
}

// parts is the table of arrows of the module. Later steps of the way from
// image definition to running job may know earlier ones, never the reverse.
var parts = []part{
	{folder: "images"},
	{folder: "initramfs"},
	{folder: "builder", imports: []string{"images", "initramfs", "internal/kmod"}},
	{folder: "pxe"},
	{folder: "api", external: none},
	{folder: "api/client", imports: []string{"api"}},
	{folder: "headnode", imports: []string{"api", "images"}},
	{folder: "headnode/scheduler", imports: []string{"api"}, external: none},
	{folder: "nodeagent", imports: []string{"api", "internal/kmod", "internal/mdns"}, external: agentExternal},
	{folder: "console", imports: []string{"api"}},
	{folder: "cmd/muster", imports: []string{""}},
	{folder: "cmd/muster-agent", imports: []string{"nodeagent", "api", "internal"}, external: agentExternal},
	{folder: "cmd/muster-init", external: []string{"golang.org/x/sys"}},
	{folder: "internal", imports: []string{"internal"}},
}

// testOnly lists folders that only tests may import, and that tests of every
// part may import.
var testOnly = []string{"internal/netnstest", "internal/archtest", "internal/need", "internal/testtable", "pxe/pxetest", "headnode/store/storetest", "internal/powercut"}

// testsToo lists folders that tests of every part may import, beside what the
// part itself may.
var testsToo = append([]string{"internal/vm"}, testOnly...)

// stateAllowed names package variables that may be mutable, with the reason.
var stateAllowed = map[string]string{
	"cmd/muster.version": "set by the linker",
}

// within reports whether folder is dir or lies below it. Everything is
// within "".
func within(folder, dir string) bool {
	return dir == "" || folder == dir || strings.HasPrefix(folder, dir+"/")
}

func withinAny(folder string, dirs []string) bool {
	for _, d := range dirs {
		if within(folder, d) {
			return true
		}
	}
	return false
}

// partOf returns the rule for a folder, or nil when there is none.
func partOf(folder string) *part {
	var best *part
	for i := range parts {
		if p := &parts[i]; within(folder, p.folder) && (best == nil || len(p.folder) > len(best.folder)) {
			best = p
		}
	}
	return best
}
