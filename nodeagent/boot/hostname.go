package boot

import (
	"fmt"
	"net"
	"strings"

	"golang.org/x/sys/unix"
)

// SetHostName sets the machine's name.
func SetHostName(name string) error {
	if !validHostName(name) {
		return fmt.Errorf("setting the host name: %q is no host name: letters, digits and hyphens, at most 63", clean(name, 80))
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("setting the host name %s: %w", name, err)
	}
	return nil
}

// validHostName accepts one label of RFC 1123 2.1.
func validHostName(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// provisionalName is what a machine is called until it is a node: after its
// hardware, since two machines of one name would lose each other's locks on
// a file server.
func provisionalName(root string, boot net.HardwareAddr) string {
	if boot != nil {
		return "machine-" + strings.ReplaceAll(boot.String(), ":", "")
	}
	if uuid := systemUUID(root); uuid != "" {
		return "machine-" + strings.ReplaceAll(uuid, "-", "")
	}
	return "machine-" + strings.ReplaceAll(bootID(root), "-", "")
}
