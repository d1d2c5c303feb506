package builder

// Step is a part of a build as people see it.
type Step string

// The steps, in the order of a build.
const (
	StepLock      Step = "lock"      // find out which packages
	StepKernel    Step = "kernel"    // fetch kernel and firmware, pack the modules
	StepModules   Step = "modules"   // pack and index all modules of the kernel
	StepUserland  Step = "userland"  // fetch, unpack and pack what tasks see
	StepLoaders   Step = "loaders"   // network boot programs
	StepCommands  Step = "commands"  // compile the definition's own Go commands
	StepInitramfs Step = "initramfs" // assemble and compress
	StepISO       Step = "iso"       // CD and USB stick
	StepUKI       Step = "uki"       // UEFI program, signed, and disk with it
	StepBill      Step = "sbom"      // list what is in the image
	StepWrite     Step = "write"     // put artifacts and manifest in place
)

// Event tells how a build goes on.
type Event struct {
	Step Step
	// Detail says what is being done, or, with End, what came out of it: a
	// few words for a line on a terminal.
	Detail string
	// Done of Total bytes of a transfer; 0 where there is nothing to count.
	Done, Total int64
	// End says that the step is over. Cached: an earlier build had done it.
	End, Cached bool
}
