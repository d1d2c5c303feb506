// Command muster is part of muster.
package main

func main() {}
