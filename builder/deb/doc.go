// Package deb reads Debian archives and Debian packages, without apt or dpkg.
//
// A [Client] (client.go) fetches an archive's InRelease file, checks its signature
// (release.go), fetches the package index that the file names by hash
// (index.go), and fetches packages by the hash that the index names. So one
// signature covers every byte that is used. Which hosts to ask is either given,
// or learned from the apt sources of the host (sources.go, mirror.go).
//
// [Resolve] (resolve.go) finds the packages that others need, as apt would.
// [Walk] (package.go) gives the files of a package in the order that they are in it,
// with paths that are safe to use and moved below usr/ where a merged system has
// them. [CompareVersions] (version.go) orders versions as Debian Policy
// says.
//
// Everything that comes from an archive is read with bounds and is never trusted
// to be well-formed. A Client may be used from any goroutine; all other values are
// plain data.
package deb
