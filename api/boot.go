package api

import "time"

// BootStage is a step of a machine's way from its firmware to a ready node.
// A boot passes some of them in this order; a stage may be left out (a
// machine that is iPXE already fetches no loader) or repeated.
type BootStage string

// The stages.
const (
	StageDHCP      BootStage = "dhcp"      // firmware asked for an address or a boot server
	StageLoader    BootStage = "loader"    // a network boot program was fetched
	StageScript    BootStage = "script"    // the boot script was fetched
	StageKernel    BootStage = "kernel"    // the kernel was fetched
	StageInitramfs BootStage = "initramfs" // the initramfs was fetched
	StageAgent     BootStage = "agent"     // the agent was heard for the first time
	StagePending   BootStage = "pending"   // it waits for approval
	StageApproved  BootStage = "approved"  // it was let in
	StageUserland  BootStage = "userland"  // it fetches what tasks see, or says why it cannot
	StagePreparing BootStage = "preparing" // it does something else before it takes tasks
	StageKexec     BootStage = "kexec"     // it starts another image, or could not
	StageReady     BootStage = "ready"     // it is a node and takes tasks
	StageRefused   BootStage = "refused"   // it was not answered, and why
	StageStuck     BootStage = "stuck"     // a boot loop or stop was noticed
)

// BootEvent is one thing that one machine did while booting.
type BootEvent struct {
	Time   time.Time `json:"time"`
	MAC    string    `json:"mac"`
	IP     string    `json:"ip,omitempty"`
	Stage  BootStage `json:"stage"`
	Detail string    `json:"detail,omitempty" doc:"file, client architecture, reason: for people"`
	Client string    `json:"client,omitempty" doc:"bios, uefi, http, ipxe or os"`
	Arch   string    `json:"arch,omitempty"`
	UUID   string    `json:"uuid,omitempty"`
	Bytes  int64     `json:"bytes,omitempty" doc:"how much was sent"`
	MS     int64     `json:"ms,omitempty" doc:"how long that took, in milliseconds"`
}

// BootLog is the timeline of one machine's latest boots, oldest first.
type BootLog struct {
	MAC    string      `json:"mac"`
	Name   string      `json:"name,omitempty"`
	Events []BootEvent `json:"events"`
	Advice string      `json:"advice,omitempty" doc:"where a boot that stopped stands, the likely cause and what to try"`
}

// BootQuery is what the boot service asks the head about a machine.
type BootQuery struct {
	MAC    string `json:"mac"`
	UUID   string `json:"uuid,omitempty"`
	Arch   string `json:"arch,omitempty" doc:"amd64, arm64 or what the firmware called itself"`
	Client string `json:"client,omitempty" doc:"bios, uefi, http or ipxe"`
	// OwnsLAN tells whether muster's DHCP gives out the addresses here;
	// enrollment is open by default where it does.
	OwnsLAN bool `json:"owns_lan"`
}

// BootDecision is the head's answer to a [BootQuery].
type BootDecision struct {
	Answer    bool     `json:"answer"`
	Reason    string   `json:"reason,omitempty" doc:"why it is not answered"`
	ImageID   string   `json:"image_id,omitempty"`
	Kernel    BlobRef  `json:"kernel"`
	Initramfs BlobRef  `json:"initramfs"`
	Cmdline   string   `json:"cmdline,omitempty" doc:"of the image, with muster.head={host}:PORT, muster.pin= and muster.image= behind it; the boot service puts its address for {host}"`
	Loaders   []Loader `json:"loaders,omitempty"`
	FixedIP   string   `json:"fixed_ip,omitempty"`
	HostName  string   `json:"host_name,omitempty"`
}

// BlobRef names content of the image store.
type BlobRef struct {
	Name   string `json:"name" doc:"file name, for people and for firmware that looks at it"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// Loader is a network boot program of an image.
type Loader struct {
	BlobRef
	Client string `json:"client" doc:"bios, uefi, or http: a UKI that UEFI HTTP boot starts in place of a network boot program"`
	Arch   string `json:"arch"`
}

// BootImage is an image that a machine starts by kexec.
type BootImage struct {
	ImageID   string  `json:"image_id"`
	Name      string  `json:"name" doc:"of its definition, for people"`
	Kernel    BlobRef `json:"kernel"`
	Initramfs BlobRef `json:"initramfs"`
	Cmdline   string  `json:"cmdline" doc:"of the image, with muster.head=, muster.pin= and muster.image= behind it"`
}

// KexecReport is what a machine knows of a start by kexec. One that went well is a report without
// an error, from the image that was started.
type KexecReport struct {
	ImageID string `json:"image_id" doc:"image that was to be started"`
	From    string `json:"from,omitempty" doc:"image that the machine ran before"`
	Error   string `json:"error,omitempty" doc:"why it was not started"`
}

// KexecPolicy says which machines start an image by kexec when they join with another one.
type KexecPolicy string

// The policies. An image that nobody said anything of has [KexecMedia].
const (
	KexecMedia  KexecPolicy = "media"  // those that were booted from a CD or USB stick
	KexecAlways KexecPolicy = "always" // all
	KexecNever  KexecPolicy = "never"  // none
)

// KexecState is the last start of another image by kexec that a node was told of and that has not ended
// well.
type KexecState struct {
	ImageID string    `json:"image_id"`
	Tries   int       `json:"tries" doc:"in a row"`
	Error   string    `json:"error,omitempty" doc:"why it did not start it; absent: it was not heard of since"`
	Time    time.Time `json:"time"`
}
