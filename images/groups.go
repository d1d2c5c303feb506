package images

import (
	"fmt"
	"strings"
)

// ModuleGroup is a named set of kernel modules.
type ModuleGroup struct {
	Name string
	For  string // one line for people
	// Patterns choose modules: a name (virtio_net; - and _ are the same), or
	// a folder below kernel/ that ends in a slash, with everything in it. A
	// leading ! takes modules away that earlier patterns chose. What a
	// kernel does not have is left out silently: kernels differ.
	Patterns []string
}

// ModuleGroups returns the groups that a definition may name under
// modules.groups. What the modules depend on always comes along.
func ModuleGroups() []ModuleGroup {
	return []ModuleGroup{
		{"base", "mounting the userland, EFI variables, random numbers, watchdogs, power button", []string{
			"loop", "squashfs", "overlay", "efivarfs", "button",
			"drivers/char/hw_random/", "virtio_rng",
			"softdog", "i6300esb", "iTCO_wdt", "sp5100_tco", "wdat_wdt", "hpwdt", "ib700wdt",
		}},
		{"virtio", "virtual machines of QEMU, KVM and their kin", []string{
			"virtio_net", "virtio_rng", "virtio_balloon", "virtio_mmio", "virtio_console", "virtio_input",
			"qemu_fw_cfg", "e1000", "e1000e", "8139cp", "8139too",
		}},
		{"hypervisor", "virtual network cards of VMware, Hyper-V, Xen and clouds", []string{
			"vmxnet3", "hv_netvsc", "hv_vmbus", "hv_utils", "hid_hyperv", "hyperv_keyboard", "xen_netfront",
			"drivers/net/ethernet/amazon/", "drivers/net/ethernet/google/", "drivers/net/ethernet/microsoft/",
		}},
		{"ethernet", "wired network cards that a compute node is likely to boot from", []string{
			"drivers/net/ethernet/", "drivers/net/phy/", "drivers/net/mdio/", "drivers/net/pcs/",
			// Switches, single-board computers, and ISA and CardBus cards.
			"!drivers/net/ethernet/mellanox/mlxsw/", "!drivers/net/ethernet/marvell/prestera/",
			"!drivers/net/ethernet/8390/", "!drivers/net/ethernet/3com/3c574_cs", "!drivers/net/ethernet/3com/3c589_cs",
			"!drivers/net/ethernet/smsc/smc91c92_cs", "!drivers/net/ethernet/xircom/", "!drivers/net/ethernet/fujitsu/",
			"!drivers/net/ethernet/amd/nmclan_cs", "!drivers/net/ethernet/microchip/",
			"!drivers/net/ethernet/netronome/", "!drivers/net/ethernet/cavium/", "!drivers/net/ethernet/brocade/",
			"!drivers/net/ethernet/chelsio/cxgb/", "!drivers/net/ethernet/chelsio/cxgb3/",
			"!drivers/net/ethernet/qlogic/netxen/", "!drivers/net/ethernet/qlogic/qlcnic/", "!drivers/net/ethernet/qlogic/qla3xxx",
			"!drivers/net/ethernet/neterion/", "!drivers/net/ethernet/sfc/falcon/", "!drivers/net/ethernet/sfc/siena/",
			"!drivers/net/ethernet/sun/", "!drivers/net/ethernet/alteon/", "!drivers/net/ethernet/myricom/",
			"!drivers/net/ethernet/broadcom/b44", "!drivers/net/ethernet/broadcom/cnic",
			"ne2k_pci",
		}},
		{"ethernet-rare", "offload, 10-gigabit and PCI cards of long ago, smart network cards", []string{
			"drivers/net/ethernet/netronome/", "drivers/net/ethernet/cavium/", "drivers/net/ethernet/brocade/",
			"drivers/net/ethernet/chelsio/", "drivers/net/ethernet/qlogic/", "drivers/net/ethernet/neterion/",
			"drivers/net/ethernet/sfc/", "drivers/net/ethernet/sun/", "drivers/net/ethernet/alteon/",
			"drivers/net/ethernet/myricom/", "b44", "cnic",
		}},
		{"usb-ethernet", "network adapters and docks on USB", []string{
			"asix", "ax88179_178a", "aqc111", "cdc_ether", "cdc_ncm", "cdc_mbim", "r8152", "r8153_ecm", "smsc75xx", "smsc95xx", "lan78xx",
			"dm9601", "mcs7830", "rtl8150", "pegasus", "sr9700", "sr9800", "ch9200", "usbnet", "rndis_host",
		}},
		{"usb", "USB controllers, keyboards", []string{
			"xhci_pci", "xhci_hcd", "ehci_pci", "ehci_hcd", "ohci_pci", "uhci_hcd", "usbhid", "hid_generic", "hid",
		}},
		{"storage", "SATA, NVMe, SCSI and USB disks", []string{
			"ahci", "ata_piix", "ata_generic", "nvme", "sd_mod", "sr_mod", "usb_storage", "uas", "sdhci_pci", "sdhci_acpi", "mmc_block", "virtio_blk", "virtio_scsi",
		}},
		{"hba", "SAS and RAID controllers", []string{
			"megaraid_sas", "mpt3sas", "mpi3mr", "aacraid", "hpsa", "smartpqi", "mptsas", "mptspi", "arcmsr", "3w_sas", "3w_9xxx", "pm80xx", "isci",
		}},
		{"media", "file systems of boot media", []string{
			"isofs", "udf", "vfat", "exfat", "nls_cp437", "nls_iso8859_1", "nls_utf8", "nls_ascii",
		}},
		{"shares", "NFS, with which shares are mounted, loaded while a machine joins", []string{"nfsv4", "rpcsec_gss_krb5"}},
		{"netfs", "network file systems", []string{
			"nfs", "nfsv3", "nfsv4", "rpcsec_gss_krb5", "cifs", "ceph", "9p", "9pnet_virtio",
		}},
		{"diskfs", "disk file systems, RAID and device mapper", []string{
			"ext4", "xfs", "btrfs", "dm_mod", "dm_crypt", "md_mod", "raid0", "raid1", "raid10", "raid456",
		}},
		{"netadv", "bridges, bonds, VLANs and tunnels", []string{
			"bridge", "8021q", "bonding", "veth", "macvlan", "vxlan", "wireguard", "tun", "nf_tables", "br_netfilter",
		}},
		{"infiniband", "InfiniBand and RDMA", []string{
			"mlx4_ib", "mlx5_ib", "ib_ipoib", "ib_umad", "ib_uverbs", "rdma_ucm", "rdma_cm", "irdma", "bnxt_re", "qedr", "hfi1",
		}},
	}
}

// FirmwareGroup chooses files from packages that hold firmware.
type FirmwareGroup struct {
	Name      string
	For       string
	Component string // of the archive
	Packages  []string
	Files     []string // below /lib/firmware, as path.Match has them
}

// FirmwareGroups returns the groups that a definition may name under
// firmware. Of their files an image has just those that its modules ask for.
func FirmwareGroups() []FirmwareGroup {
	const nonFree = "non-free-firmware"
	return []FirmwareGroup{
		{
			"realtek", "Realtek cards, which run without it, some of them badly", nonFree,
			[]string{"firmware-realtek"},
			[]string{"rtl_nic/*"},
		},
		// Older files of bnx2x are for older kernels.
		{
			"broadcom", "Broadcom NetXtreme II, which do not run without it, and Tigon3", nonFree,
			[]string{"firmware-bnx2", "firmware-bnx2x", "firmware-misc-nonfree"},
			[]string{"bnx2/*", "bnx2x/*-7.13.21.0.fw", "tigon/*"},
		},
		{
			"intel", "Intel E100, and E800, which run in a safe mode without it", nonFree,
			[]string{"firmware-intel-misc"},
			[]string{"e100/*", "intel/ice/ddp/ice.pkg"},
		},
		{
			"qlogic", "QLogic converged cards", nonFree,
			[]string{"firmware-qlogic", "firmware-netxen"},
			[]string{"qed/*", "phanfw.bin", "ql*"},
		},
		{
			"chelsio", "Chelsio offload cards", nonFree,
			[]string{"firmware-misc-nonfree"},
			[]string{"cxgb3/*", "cxgb4/*"},
		},
		{
			"cavium", "Cavium LiquidIO", nonFree,
			[]string{"firmware-cavium"},
			[]string{"liquidio/*"},
		},
		{
			"netronome", "Netronome flow processors", nonFree,
			[]string{"firmware-netronome"},
			[]string{"netronome/*", "netronome/*/*"},
		},
		{
			"myricom", "Myricom 10G", nonFree,
			[]string{"firmware-myricom"},
			[]string{"myri10ge_*"},
		},
	}
}

// checkGroup fails unless name is one of the groups, naming the nearest.
func checkGroup(key, name string, groups []string) error {
	for _, g := range groups {
		if g == name {
			return nil
		}
	}
	return fmt.Errorf("%s: there is no group %q%s; groups are: %s",
		key, name, didYouMean(name, groups), strings.Join(groups, ", "))
}
