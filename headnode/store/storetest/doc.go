// Package storetest has what tests of and with a store need: [Run], the
// behavior that every store.Interface must show, and [Mem], a store in memory
// for the tests of packages that use one.
package storetest
