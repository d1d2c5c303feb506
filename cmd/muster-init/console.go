package main

import (
	"strconv"
	"syscall"
	"unsafe"
)

// openConsole makes a terminal among the task's own, puts it into the place of standard input,
// output and error, and hands its master's end to the shim. It is uid's.
func openConsole(uid int, window [2]uint16) error {
	master, err := syscall.Open("/dev/ptmx", syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(master)
	var n uint32
	var unlocked int32
	if err := ioctl(master, syscall.TIOCGPTN, unsafe.Pointer(&n)); err != nil {
		return err
	}
	if err := ioctl(master, syscall.TIOCSPTLCK, unsafe.Pointer(&unlocked)); err != nil {
		return err
	}
	size := [4]uint16{window[0], window[1]} // struct winsize
	if err := ioctl(master, syscall.TIOCSWINSZ, unsafe.Pointer(&size)); err != nil {
		return err
	}
	name := "/dev/pts/" + strconv.Itoa(int(n))
	if err := syscall.Chown(name, uid, -1); err != nil {
		return err
	}
	slave, err := syscall.Open(name, syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(slave)
	err = syscall.Sendmsg(fdConsole, []byte{0}, syscall.UnixRights(master), nil, 0)
	syscall.Close(fdConsole)
	if err != nil {
		return err
	}
	for i := range 3 {
		if err := syscall.Dup3(slave, i, 0); err != nil {
			return err
		}
	}
	// The shim made this process the leader of a session: the terminal becomes that of the
	// session, and so of the program.
	return ioctl(0, syscall.TIOCSCTTY, nil)
}

func ioctl(fd int, op uintptr, arg unsafe.Pointer) error {
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), op, uintptr(arg)); e != 0 {
		return e
	}
	return nil
}
