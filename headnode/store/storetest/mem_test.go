package storetest

import (
	"testing"

	"muster/headnode/store"
)

func TestMem(t *testing.T) {
	Run(t, func(*testing.T) store.Interface { return new(Mem) })
}
