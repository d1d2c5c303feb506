package headnode

import (
	"context"
	"io"
	"os"

	"muster/api"
)

// What http.go serves of the node side of a head. *Nodes, *Images,
// *Settings, *Enroll, *BootLogs and *Events implement these; errors are
// *api.Error wherever the user can do something about them. actor is who asks, for the log
// and for events ("root", "alice"). All methods may be called from any
// goroutine.

// nodeAdmin is *Nodes.
type nodeAdmin interface {
	// List has every machine and node: nodes by name, then pending ones in
	// order of arrival, then the rest.
	List() []api.Node
	// Find looks a machine or node up by name, id, MAC in any spelling,
	// fingerprint or a unique prefix of one of at least four letters.
	Find(ref string) (api.Node, error)
	// Expand expands a node list ("n[1-10,14]", "n1-10", "label:gpu", or MACs) to nodes, each once.
	Expand(list string) ([]api.Node, error)
	Approve(ctx context.Context, actor string, req api.ApproveRequest) ([]api.Node, error)
	Reject(ctx context.Context, actor, ref string) (api.Node, error)
	Remove(ctx context.Context, actor, ref string) (api.Node, error)
	Rename(ctx context.Context, actor, ref, name string) (api.Node, error)
	Declare(ctx context.Context, actor string, req api.DeclareRequest) (api.Node, error)
	SetAdmin(ctx context.Context, actor, ref string, to api.AdminState) (api.Node, error)
	Reboot(ctx context.Context, actor, ref string) error
	// AssignImage gives machines an image of their own, or the default again.
	AssignImage(ctx context.Context, actor string, req api.AssignImageRequest) ([]api.Node, error)
	// Label changes the labels of machines.
	Label(ctx context.Context, actor string, req api.LabelRequest) ([]api.Node, error)
	// KernelLog is the end of the kernel log of a node, oldest line first.
	KernelLog(ref string) ([]api.KernelLine, error)
}

// imageStore is *Images.
type imageStore interface {
	List() []api.Image
	// Publish takes the manifest.json of a build whose artifacts were all
	// put. makeDefault nil: it becomes the default if it is the first.
	Publish(ctx context.Context, actor string, manifest []byte, makeDefault *bool) (api.Image, error)
	// HasBlob tells the size of a blob that is there.
	HasBlob(sha256 string) (size int64, ok bool)
	// PutBlob stores r if its content has that hash.
	PutBlob(ctx context.Context, sha256 string, r io.Reader) error
	// OpenBlob opens a blob for reading; the caller closes it.
	OpenBlob(sha256 string) (*os.File, error)
	// Manifest, SetDefault and Remove take a name, an image ID or a unique prefix of one.
	Manifest(ref string) ([]byte, error)
	SetDefault(ctx context.Context, actor, ref string) (api.Image, error)
	// Set changes what is set of an image.
	Set(ctx context.Context, actor, ref string, s api.ImageSettings) (api.Image, error)
	Remove(ctx context.Context, actor, ref string) error
}

// shareAdmin is *Shares.
type shareAdmin interface {
	// List is by path.
	List() []api.Share
	// Show, as Remove, finds a share by its path.
	Show(path string) (api.Share, error)
	Add(ctx context.Context, actor string, req api.ShareRequest) (api.Share, error)
	Remove(ctx context.Context, actor, path string) error
}

// settings is *Settings.
type settings interface {
	List() []api.Setting
	Get(key string) (api.Setting, error)
	// Set with value "" returns to the default.
	Set(ctx context.Context, actor, key, value string) (api.Setting, error)
	// Export and Import are YAML: settings and declared machines.
	Export() ([]byte, error)
	Import(ctx context.Context, actor string, doc []byte) error
}

// enrollment is *Enroll.
type enrollment interface {
	Get() api.Enrollment
	Set(ctx context.Context, actor string, req api.EnrollmentRequest) (api.Enrollment, error)
}

// bootDesk is *Head: what the boot service asks and tells.
type bootDesk interface {
	BootDecision(q api.BootQuery) api.BootDecision
	ObserveBoot(ev api.BootEvent)
	// BootLog finds a machine as nodeAdmin.Find does.
	BootLog(ref string) (api.BootLog, error)
	// SetBootInterfaces tells what the boot service does; Status shows it,
	// and the rejoin policy asks it who owns a network.
	SetBootInterfaces(list []api.BootInterface)
}

// eventSource is *Events.
type eventSource interface {
	// Publish gives ev the next revision and its time.
	Publish(ev api.Event) uint64
	// Revision is the latest one.
	Revision() uint64
	// Next waits for events after the revision and returns up to max of
	// them, or an *api.Error of code conflict when after is so old that
	// events were dropped: list again then.
	Next(ctx context.Context, after uint64, max int) ([]api.Event, error)
}
