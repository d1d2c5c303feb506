package builder

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// The parts of SPDX 2.3 that an image's bill of materials has
// (https://spdx.github.io/spdx-spec/v2.3/). Field names are those of its JSON schema.

type spdxDocument struct {
	Version       string             `json:"spdxVersion"`
	DataLicense   string             `json:"dataLicense"`
	ID            string             `json:"SPDXID"`
	Name          string             `json:"name"`
	Namespace     string             `json:"documentNamespace"`
	Creation      spdxCreation       `json:"creationInfo"`
	Packages      []spdxPackage      `json:"packages"`
	Extracted     []extractedLicense `json:"hasExtractedLicensingInfos,omitempty"`
	Relationships []spdxRelationship `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID               string         `json:"SPDXID"`
	Name             string         `json:"name"`
	Version          string         `json:"versionInfo,omitempty"`
	Purpose          string         `json:"primaryPackagePurpose,omitempty"`
	Supplier         string         `json:"supplier"`
	DownloadLocation string         `json:"downloadLocation"`
	FilesAnalyzed    bool           `json:"filesAnalyzed"`
	Checksums        []spdxChecksum `json:"checksums,omitempty"`
	SourceInfo       string         `json:"sourceInfo,omitempty"`
	LicenseConcluded string         `json:"licenseConcluded"`
	LicenseDeclared  string         `json:"licenseDeclared"`
	CopyrightText    string         `json:"copyrightText"`
	Comment          string         `json:"comment,omitempty"`
	ExternalRefs     []spdxRef      `json:"externalRefs,omitempty"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type extractedLicense struct {
	ID   string `json:"licenseId"`
	Name string `json:"name"`
	Text string `json:"extractedText"`
}

type spdxRelationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

// newPackage returns a package with everything filled in that SPDX wants, and no more.
// kind and key make its identifier; the key may have any characters.
func newPackage(kind, key, name, version string) spdxPackage {
	id := "SPDXRef-" + kind + "-" + cleanID(key)
	if cleanID(key) != key {
		id += "-" + hashBytes([]byte(key))[:8]
	}
	return spdxPackage{
		ID: id, Name: name, Version: version, Supplier: noAssertion, DownloadLocation: noAssertion,
		LicenseConcluded: noAssertion, LicenseDeclared: noAssertion, CopyrightText: noAssertion,
	}
}

func (p *spdxPackage) sha256(sum string) {
	p.Checksums = append(p.Checksums, spdxChecksum{"SHA256", sum})
}

func (p *spdxPackage) purl(locator string) {
	p.ExternalRefs = append(p.ExternalRefs, spdxRef{"PACKAGE-MANAGER", "purl", locator})
}

// add puts p into the document, once, as a part of the element container.
func (d *spdxDocument) add(container string, p spdxPackage) {
	if !slices.ContainsFunc(d.Packages, func(q spdxPackage) bool { return q.ID == p.ID }) {
		d.Packages = append(d.Packages, p)
	}
	d.Relationships = append(d.Relationships, spdxRelationship{container, "CONTAINS", p.ID})
}

// encode sorts everything and returns the text.
func (d *spdxDocument) encode() ([]byte, error) {
	slices.SortFunc(d.Packages, func(a, b spdxPackage) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(d.Extracted, func(a, b extractedLicense) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(d.Relationships, func(a, b spdxRelationship) int {
		return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
	})
	d.Relationships = slices.Compact(d.Relationships)
	text, err := json.MarshalIndent(d, "", " ")
	return append(text, '\n'), err
}
