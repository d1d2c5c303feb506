// Package vm runs virtual machines with real firmware: for `muster demo`, and
// for tests that say something about a machine.
//
// A [Machine] is one QEMU process. [Start] makes it from a [Config]; its serial
// console is kept in a file and can be waited on line by line, QMP resets or
// ends it, and it dies with the process that started it. args.go turns a
// Config into QEMU's command line, firmware.go finds firmware files and says
// which package to install, accel.go decides between KVM and emulation,
// console.go reads the serial console.
//
// A [Network] is a bridge with ports in the network namespace of the caller
// (network.go); a machine is given a [Port]. Packets of a port can be changed on
// their way (relay.go), which [PlainROM] uses to make QEMU's iPXE look like a
// PXE ROM of another vendor.
//
// Nothing needs to be installed as root: with a user namespace of its own
// (see [Isolate]) a user's process can do all of this, if it may open
// /dev/net/tun.
package vm
