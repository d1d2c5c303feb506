// Package ukitest makes boot stubs and keys for tests.
package ukitest
