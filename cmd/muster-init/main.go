// Command muster-init is part of muster.
package main

func main() {}
