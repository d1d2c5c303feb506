package userland

import (
	"muster/api"
	"muster/nodeagent/mount"
)

// shareFraction is the part of a machine's memory that a userland may take for good, one in so many.
const shareFraction = 4

// wayToShare is how an administrator offers a userland as a file.
const wayToShare = "on the head: muster image set IMAGE --userland-share HOST:/FOLDER"

// offer is what a machine knows of places for its userland beside its own memory.
type offer struct {
	told   bool                // the head has said whether there is one
	source *api.UserlandSource // nil: there is none
}

// place decides where a machine has its userland. Where it cannot be anywhere now, in is "" and why says the
// reason; where the head has not said yet what there is, both are empty.
func place(want api.Userland, memTotalMiB int64, o offer) (in api.UserlandIn, why string) {
	small := tooSmall(want.MemoryMiB, memTotalMiB)
	shareable := want.VerityRoot != ""
	switch want.In {
	case api.UserlandShare:
		switch {
		case !shareable:
			return "", "its image wants it on a share and has no hash tree of it; build the image again"
		case o.source != nil:
			return api.UserlandShare, ""
		case !o.told:
			return "", ""
		}
		return "", "its image wants it on a read-only share, and there is none; " + wayToShare
	case api.UserlandAuto:
		switch {
		case small == "" && !takesMuch(want.Size, memTotalMiB):
			return api.UserlandMemory, ""
		case shareable && o.source != nil:
			return api.UserlandShare, ""
		case shareable && !o.told:
			return "", ""
		case small == "":
			return api.UserlandMemory, ""
		case shareable:
			return "", small + ", or a read-only share that has it; " + wayToShare
		}
	}
	if small != "" {
		return "", small + ", or an image with userland: auto and a read-only share"
	}
	return api.UserlandMemory, ""
}

// takesMuch tells whether a userland of so many bytes is more than a quarter of a machine's memory.
func takesMuch(size, memTotalMiB int64) bool {
	return memTotalMiB > 0 && size*shareFraction > machineMiB(memTotalMiB)<<20
}

// from says for people where a source is.
func from(s api.UserlandSource) string { return mount.From(s.Server, s.Export) }
