package vm

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
)

// program is QEMU's program for our machines.
const program = "qemu-system-x86_64"

// Missing is a program or file that has to be installed. It is found with
// errors.As in what [Installed] and [Start] return.
type Missing struct {
	What    string // for people: "QEMU", "UEFI firmware"
	Package string // Debian and Ubuntu package that brings it
	Looked  []string
}

func (m *Missing) Error() string {
	return fmt.Sprintf("%s is not installed (looked for %s); get it with: apt-get install %s", m.What, strings.Join(m.Looked, ", "), m.Package)
}

// Installed returns nil when everything that machines with the given firmware
// need is installed, else a *Missing.
func Installed(f Firmware) error {
	if _, err := findQEMU(); err != nil {
		return err
	}
	if f == UEFI {
		_, err := findOVMF(os.Stat, ovmfPlaces)
		return err
	}
	return findROM(os.Stat, defaultModel)
}

func findQEMU() (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", &Missing{"QEMU", "qemu-system-x86", []string{program}}
	}
	return path, nil
}

// ovmf is a UEFI firmware: its code, and the empty variables that go with it.
type ovmf struct{ code, vars string }

// ovmfPlaces lists where distributions put OVMF, the preferred first: builds
// for 4 MiB flash are the only ones of Debian 13 and Ubuntu 24.04.
var ovmfPlaces = []ovmf{
	{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"}, // Debian, Ubuntu
	{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},       // Debian 10
	{"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},
	{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
}

// secureOVMFPlaces lists where distributions put OVMF that enforces Secure Boot, with
// variables that have Microsoft's keys.
var secureOVMFPlaces = []ovmf{
	{"/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"}, // Debian, Ubuntu
	{"/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"},
	{"/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd"},
}

// ownKeyOVMFPlaces are the same with variables that have no keys.
var ownKeyOVMFPlaces = []ovmf{
	{"/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"}, // Debian, Ubuntu
	{"/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	{"/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
}

// InstalledSecureBoot returns nil when what a machine with Secure Boot needs is
// installed, else a *Missing.
func InstalledSecureBoot() error {
	if _, err := findQEMU(); err != nil {
		return err
	}
	_, err := findOVMF(os.Stat, secureOVMFPlaces)
	return err
}

type statFunc func(name string) (fs.FileInfo, error)

func findOVMF(stat statFunc, places []ovmf) (ovmf, error) {
	var looked []string
	for _, p := range places {
		_, codeErr := stat(p.code)
		_, varsErr := stat(p.vars)
		if codeErr == nil && varsErr == nil {
			return p, nil
		}
		looked = append(looked, p.code)
	}
	return ovmf{}, &Missing{"UEFI firmware for virtual machines", "ovmf", looked}
}

// romPlaces lists where network boot ROMs are: Debian and Ubuntu, QEMU's own.
var romPlaces = []string{"/usr/lib/ipxe/qemu/", "/usr/share/qemu/"}

// romFiles names the ROM that QEMU loads for a model.
var romFiles = map[string]string{
	"virtio-net-pci": "efi-virtio.rom",
	"e1000":          "efi-e1000.rom",
	"e1000e":         "efi-e1000e.rom",
	"rtl8139":        "efi-rtl8139.rom",
	"vmxnet3":        "efi-vmxnet3.rom",
}

// findROM returns an error when the boot ROM of a model is known and missing.
func findROM(stat statFunc, model string) error {
	name := romFiles[model]
	if name == "" {
		return nil
	}
	var looked []string
	for _, dir := range romPlaces {
		if _, err := stat(dir + name); err == nil {
			return nil
		}
		looked = append(looked, dir+name)
	}
	return &Missing{"the network boot ROM for virtual machines", "ipxe-qemu", looked}
}
