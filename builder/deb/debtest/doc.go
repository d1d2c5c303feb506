// Package debtest makes Debian archives for tests: packages, indexes and a signed
// InRelease file, served over HTTP. An [Archive] is filled by one goroutine and
// then serves any number.
package debtest
