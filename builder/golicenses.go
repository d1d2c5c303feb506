package builder

import (
	_ "embed"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// goLicenseTable has a line for each Go module of the programs that muster puts into an
// image: path, version and license, found by [classifyLicense] in the module's files.
// A test writes it anew with UPDATE_GOLDEN=1.
//
//go:embed golicenses.txt
var goLicenseTable string

// Licenses of what has no line in the table.
const (
	ownModule  = "muster"
	ownLicense = "Apache-2.0"
	goLicense  = "BSD-3-Clause" // of the standard library
)

// goLicense returns the license of a module; "" where it is not in the table.
func goModuleLicense(path, version string) string {
	if path == ownModule {
		return ownLicense
	}
	want := path + " " + version + " "
	for line := range strings.Lines(goLicenseTable) {
		if license, ok := strings.CutPrefix(line, want); ok {
			return strings.TrimSpace(license)
		}
	}
	return ""
}

// licenseOfDir returns the license of the module in a folder, or "".
func licenseOfDir(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	var ids []string
	for _, e := range entries {
		name := strings.ToUpper(e.Name())
		if !strings.HasPrefix(name, "LICENSE") && !strings.HasPrefix(name, "LICENCE") && !strings.HasPrefix(name, "COPYING") || e.IsDir() {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return ""
		}
		for _, id := range classifyLicense(string(text)) {
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	slices.Sort(ids)
	return strings.Join(ids, " AND ")
}

// classifyLicense returns the licenses whose own words are in text, as SPDX names them.
func classifyLicense(text string) []string {
	text = strings.ToLower(strings.Join(strings.Fields(text), " "))
	var ids []string
	for _, c := range []struct {
		id          string
		has, hasNot []string
	}{
		{"Apache-2.0", []string{"apache license", "version 2.0"}, nil},
		{"MIT", []string{"permission is hereby granted, free of charge, to any person obtaining a copy", "the software is provided \"as is\""}, nil},
		{"BSD-3-Clause", []string{"redistribution and use in source and binary forms", "neither the name", "may be used to endorse"}, nil},
		{"BSD-2-Clause", []string{"redistribution and use in source and binary forms"}, []string{"neither the name", "may be used to endorse", "advertising materials"}},
		{"MPL-2.0", []string{"mozilla public license version 2.0"}, nil},
		{"ISC", []string{"permission to use, copy, modify, and", "for any purpose with or without fee is hereby granted, provided"}, nil},
		{"CC0-1.0", []string{"cc0 1.0 universal"}, nil},
		{"Unlicense", []string{"this is free and unencumbered software released into the public domain"}, nil},
	} {
		in := func(s string) bool { return strings.Contains(text, s) }
		if !slices.ContainsFunc(c.has, func(s string) bool { return !in(s) }) && !slices.ContainsFunc(c.hasNot, in) {
			ids = append(ids, c.id)
		}
	}
	return ids
}
