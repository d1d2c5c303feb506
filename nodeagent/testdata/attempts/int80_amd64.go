package main

// int80 makes a system call of the 32-bit kind.
func int80(number uint32) int32
