package builder

import (
	"fmt"
	"strings"
)

// bootMenu is the menu of a medium: the same entries for isolinux and GRUB.
type bootMenu struct {
	Name, Kernel, Cmdline, ID string
}

// menuSeconds is how long the menu waits for a key.
const menuSeconds = 2

// menuEntry is a line of the menu. Its title goes between single quotes in grub.cfg, so it has none.
type menuEntry struct {
	id, title, params string
}

func (m bootMenu) entries() []menuEntry {
	return []menuEntry{
		{"normal", "muster " + m.Name, ""},
		{"verbose", "muster " + m.Name + ", with messages of the kernel", "loglevel=7 ignore_loglevel"},
		{"noprobe", "muster " + m.Name + ", drivers of network cards only", "muster.probe=network"},
	}
}

const (
	localID    = "local"
	localTitle = "boot the local disk"
)

// cmdline is the kernel's for an entry. medium is "" where the loader finds it out.
func (m bootMenu) cmdline(e menuEntry, medium string) string {
	words := []string{m.Cmdline, "muster.image=" + m.ID, "muster.medium=" + medium, e.params}
	return strings.Join(strings.Fields(strings.Join(words, " ")), " ")
}

// isolinux returns isolinux.cfg: a line for every entry and a prompt, which also work where the
// BIOS writes to a serial line. isolinux reads Rock Ridge names, and cannot tell a CD from a
// stick.
func (m bootMenu) isolinux() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "SAY muster %s, kernel %s. Type a word and Enter:\n", m.Name, m.Kernel)
	entries := m.entries()
	for _, e := range append(entries, menuEntry{localID, localTitle, ""}) {
		fmt.Fprintf(&b, "SAY   %-8s %s\n", e.id, e.title)
	}
	fmt.Fprintf(&b, "PROMPT 1\nTIMEOUT %d\nDEFAULT %s\n", menuSeconds*10, entries[0].id)
	for _, e := range entries {
		fmt.Fprintf(&b, "LABEL %s\n  KERNEL /%s\n  INITRD /%s,/%s\n  APPEND %s\n",
			e.id, mediumKernel, mediumInitramfs, mediumSite, m.cmdline(e, "iso"))
	}
	// -1 ends the loader as one that could not boot: the BIOS goes on with its
	// next device.
	fmt.Fprintf(&b, "LABEL %s\n  LOCALBOOT -1\n", localID)
	return []byte(b.String())
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
	fmt.Fprintf(&b, "menuentry '%s' --id %s {\n%s}\n", localTitle, localID, grubLocal)
	return []byte(b.String())
}

// grubLocal starts what a disk other than the medium has for UEFI. To end GRUB would not do: Debian's
// tells the firmware that all went well, whatever exit is given, and the firmware (OVMF 2022.11) then shows its setup
// instead of its next boot option (UEFI 3.1.7). That is left for a machine where nothing is found.
const grubLocal = `  regexp --set=1:own '^(hd[0-9]+)' "$root"
  for d in (hd*,gpt*) (hd*,msdos*) (hd*); do
    regexp --set=1:disk '(hd[0-9]+)' "$d"
    if [ "$disk" != "$own" ]; then
      for f in /EFI/Microsoft/Boot/bootmgfw.efi /EFI/debian/shimx64.efi /EFI/ubuntu/shimx64.efi /EFI/fedora/shimx64.efi /EFI/BOOT/BOOTX64.EFI; do
        if [ -f "$d$f" ]; then
          chainloader "$d$f"
          boot
        fi
      done
    fi
  done
  exit 1
`
