package builder

import (
	"fmt"
	"path"
	"strings"
)

// bootMenu is the menu of a medium: the same entries for isolinux and GRUB.
type bootMenu struct {
	Name, Kernel, Cmdline, ID string
}

// menuSeconds is how long the menu waits for a key.
const menuSeconds = 2

type menuEntry struct {
	id, title, params string
}

func (m bootMenu) entries() []menuEntry {
	return []menuEntry{
		{"normal", "muster " + m.Name, ""},
		{"verbose", "muster " + m.Name + ", with the kernel's messages", "loglevel=7 ignore_loglevel"},
		{"noprobe", "muster " + m.Name + ", drivers of network cards only", "muster.probe=network"},
	}
}

const localTitle = "boot the local disk"

// cmdline is the kernel's for an entry. medium is "" where the loader finds it out.
func (m bootMenu) cmdline(e menuEntry, medium string) string {
	words := []string{m.Cmdline, "muster.image=" + m.ID, "muster.medium=" + medium, e.params}
	return strings.Join(strings.Fields(strings.Join(words, " ")), " ")
}

// isolinux returns isolinux.cfg. isolinux reads names of 8 and 3 characters, and cannot
// tell a CD from a stick.
func (m bootMenu) isolinux() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "UI menu.c32\nPROMPT 0\nTIMEOUT %d\nMENU TITLE muster %s, kernel %s\n", menuSeconds*10, m.Name, m.Kernel)
	for i, e := range m.entries() {
		fmt.Fprintf(&b, "LABEL %s\n  MENU LABEL %s\n", e.id, e.title)
		if i == 0 {
			b.WriteString("  MENU DEFAULT\n")
		}
		fmt.Fprintf(&b, "  KERNEL /%s\n  INITRD /%s,/%s\n  APPEND %s\n", mediumKernel, mediumInitramfs, isoName(mediumSite), m.cmdline(e, "iso"))
	}
	// -1 ends the loader as one that could not boot: the BIOS goes on with its
	// next device.
	fmt.Fprintf(&b, "LABEL local\n  MENU LABEL %s\n  LOCALBOOT -1\n", localTitle)
	return []byte(b.String())
}

// isoName shortens the ending of a name to the three characters of ISO 9660.
func isoName(name string) string {
	ext := path.Ext(name)
	return strings.TrimSuffix(name, ext) + ext[:min(len(ext), 4)]
}

// grub returns grub.cfg.
func (m bootMenu) grub() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `set timeout=%d
set default=0
set medium=usb
if [ "$root" = "cd0" -o "$root" = "cd1" -o "$root" = "cd2" -o "$root" = "cd3" ]; then
  set medium=iso
fi
`, menuSeconds)
	for _, e := range m.entries() {
		fmt.Fprintf(&b, "menuentry '%s' --id %s {\n  linux /%s %s\n  initrd /%s /%s\n}\n",
			e.title, e.id, mediumKernel, m.cmdline(e, "$medium"), mediumInitramfs, mediumSite)
	}
	// An application that ends with an error: the firmware goes on with its next
	// boot option.
	fmt.Fprintf(&b, "menuentry '%s' --id local {\n  exit 1\n}\n", localTitle)
	return []byte(b.String())
}
