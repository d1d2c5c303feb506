package initramfs

// ReadCPIOLimit is ReadCPIO that reads no more than limit bytes.
var ReadCPIOLimit = readCPIO
