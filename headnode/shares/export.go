package shares

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"muster/api"
)

// Client is an address that may mount an export.
type Client struct {
	Node string     `json:"node"` // who has it; for people, and for a head that starts again
	Addr netip.Addr `json:"addr"`
}

// Export is a folder that is served.
type Export struct {
	// ID is in the handles that nodes hold; it is never used for another folder.
	ID           uint16   `json:"id"`
	Dir          string   `json:"dir"`             // without symbolic links
	Mount        string   `json:"mount,omitempty"` // where its file system is mounted; it is not served while another one is there
	ReadOnly     bool     `json:"read_only,omitempty"`
	NoRootSquash bool     `json:"no_root_squash,omitempty"`
	Clients      []Client `json:"clients,omitempty"`
	// Userlands are what the export [UserlandsID] has: files of the image store, by their SHA-256.
	Userlands []string `json:"userlands,omitempty"`
}

// Wanted is all that an engine is to serve.
type Wanted struct {
	Driver  api.ShareDriver `json:"driver,omitempty"` // of Exports; "": there are none
	Exports []Export        `json:"exports,omitempty"`
}

// Status is what a [Desk] does.
type Status struct {
	Wanted Wanted `json:"wanted"` // as it was taken last
	// Failed says of exports why they are not served; the others are.
	Failed map[uint16]string `json:"failed,omitempty"`
}

// Folder is what a [Desk] says of a folder that could be served.
type Folder struct {
	Dir    string          `json:"dir"`             // without symbolic links
	Mount  string          `json:"mount"`           // where its file system is mounted
	Type   string          `json:"type"`            // of that file system
	Below  []string        `json:"below,omitempty"` // other file systems mounted in it
	Driver api.ShareDriver `json:"driver"`          // the engine that would serve it
	// Durable is false where a power cut may take names that were acknowledged.
	Durable bool `json:"durable,omitempty"`
}

// Desk is where the head has its folders served. Errors are *api.Error.
type Desk interface {
	// Look says of a folder how it would be served, or why it cannot be; of [Userlands] where it
	// is, and makes it. driver is the engine that serves others already, which this one must have too; "": none does.
	Look(ctx context.Context, dir string, driver api.ShareDriver) (Folder, error)
	// Serve makes w what is served, and returns when it is. It may be called again with the same:
	// what had failed is tried again.
	Serve(ctx context.Context, w Wanted) (Status, error)
	// Status is what is served now.
	Status(ctx context.Context) (Status, error)
}

// ExportPath is what nodes mount of an export.
func ExportPath(driver api.ShareDriver, id uint16, dir string) string {
	if driver == api.ShareGanesha {
		return fmt.Sprintf("/share-%d", id)
	}
	return dir
}

// Bounds of what can be asked for.
const (
	maxDir     = 1024
	maxExports = 256 + 64 // shares, and some that nodes are about to leave
	maxClients = 4096
)

// checkDir says why a folder cannot stand in the configuration of an engine. How
// nfs-ganesha reads a quotation mark or a backslash within quotation marks is not documented.
func checkDir(dir string) error {
	switch {
	case !path.IsAbs(dir) || path.Clean(dir) != dir:
		return fmt.Errorf("%q is not a plain path from /", dir)
	case len(dir) > maxDir:
		return fmt.Errorf("its path has %d bytes; at most %d can be shared", len(dir), maxDir)
	case !utf8.ValidString(dir):
		return fmt.Errorf("its path %q is not UTF-8", dir)
	case strings.ContainsAny(dir, "\"\\"):
		return fmt.Errorf("its path %q has a quotation mark or a backslash, which NFS servers' configurations cannot have", dir)
	case strings.ContainsFunc(dir, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("its path %q has a line break or another control character", dir)
	}
	return nil
}

// check says what is wrong with what was asked for. It is asked by a process with less rights.
func (w Wanted) check() error {
	if len(w.Exports) > maxExports {
		return fmt.Errorf("%d exports; at most %d can be served", len(w.Exports), maxExports)
	}
	if len(w.Exports) > 0 && w.Driver != api.ShareKernel && w.Driver != api.ShareGanesha {
		return fmt.Errorf("there is no engine %q", w.Driver)
	}
	ids, dirs := map[uint16]bool{}, map[string]bool{}
	for _, e := range w.Exports {
		if err := checkDir(e.Dir); err != nil {
			return fmt.Errorf("export %d: %w", e.ID, err)
		}
		if e.ID == 0 || ids[e.ID] || dirs[e.Dir] {
			return fmt.Errorf("export %d of %s is there twice", e.ID, e.Dir)
		}
		ids[e.ID], dirs[e.Dir] = true, true
		if err := e.checkUserlands(); err != nil {
			return fmt.Errorf("export %d: %w", e.ID, err)
		}
		if len(e.Clients) > maxClients {
			return fmt.Errorf("export %d: %d nodes; at most %d can mount it", e.ID, len(e.Clients), maxClients)
		}
		for _, c := range e.Clients {
			if !c.Addr.IsValid() || c.Addr.Zone() != "" || c.Addr.IsUnspecified() {
				return fmt.Errorf("export %d: node %s has the address %s", e.ID, c.Node, c.Addr)
			}
		}
	}
	return nil
}

// squash is who users of nodes are, as nfs-ganesha and exports(5) name it.
func (e Export) squash() (ganesha, kernel string) {
	switch {
	case e.ID == UserlandsID:
		return "All_Squash", "all_squash"
	case e.NoRootSquash:
		return "No_Root_Squash", "no_root_squash"
	}
	return "Root_Squash", "root_squash"
}

// addrs are the addresses of an export's clients, sorted, each once.
func (e Export) addrs() []netip.Addr {
	var list []netip.Addr
	for _, c := range e.Clients {
		list = append(list, c.Addr.Unmap())
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// fsid names the file system of an export to clients of the kernel's server. It begins with a mark
// by which our exports are told from others.
func (e Export) fsid() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "muster share %d %s", e.ID, e.Dir))
	// RFC 9562 5.8: version 8 is for contents of one's own.
	return fmt.Sprintf("%s8%03x-%04x-%012x", fsidMark, uint16(sum[0])<<4&0xff0|uint16(sum[1])>>4, uint16(sum[2])<<8&0x3f00|0x8000|uint16(sum[3]), sum[4:10])
}

const fsidMark = "6d757374-6572-" // muster
