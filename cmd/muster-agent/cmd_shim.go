package main

import "errors"

func shimMain(args []string) error {
	return errors.New("shim: not wired yet")
}
