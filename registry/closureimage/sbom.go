package closureimage

import (
	"slices"
	"strconv"
	"strings"

	"github.com/closured/closured/nixstore"
)

// The SBOM is an SPDX 2.3 document in JSON, with the fields that we write. It
// describes a closure, and is the same for each form and all settings of its images.

type spdx struct {
	Version       string             `json:"spdxVersion"`
	DataLicense   string             `json:"dataLicense"`
	ID            string             `json:"SPDXID"`
	Name          string             `json:"name"`
	Namespace     string             `json:"documentNamespace"`
	Creation      spdxCreation       `json:"creationInfo"`
	Packages      []spdxPackage      `json:"packages"`
	Relationships []spdxRelationship `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID            string    `json:"SPDXID"`
	Name          string    `json:"name"`
	Version       string    `json:"versionInfo,omitempty"`
	Download      string    `json:"downloadLocation"`
	FilesAnalyzed bool      `json:"filesAnalyzed"`
	License       string    `json:"licenseConcluded"`
	Declared      string    `json:"licenseDeclared"`
	Copyright     string    `json:"copyrightText"`
	Comment       string    `json:"comment"`
	Refs          []spdxRef `json:"externalRefs"`
}

type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

const (
	documentID  = "SPDXRef-DOCUMENT"
	noAssertion = "NOASSERTION"
)

// sbomOf writes the SBOM of a closure.
func sbomOf(c nixstore.Closure) []byte {
	doc := spdx{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: documentID, Name: c.Root.BaseName(),
		// A root's hash stands for all that it was made from, and no clock is needed to make it unique.
		Namespace: "https://closured.dev/spdx/" + c.Root.Hash(),
		Creation:  spdxCreation{created, []string{"Tool: closured"}},
	}
	doc.Relationships = append(doc.Relationships, spdxRelationship{documentID, "DESCRIBES", spdxID(c.Root)})
	for _, p := range c.Paths {
		name, version := splitVersion(p.Path.Name())
		doc.Packages = append(doc.Packages, spdxPackage{
			ID: spdxID(p.Path), Name: name, Version: version, Download: noAssertion,
			License: noAssertion, Declared: noAssertion, Copyright: noAssertion,
			Comment: "NAR of " + strconv.FormatInt(p.NarSize, 10) + " bytes with the hash " + p.NarHash,
			Refs: []spdxRef{
				{"OTHER", "nix-store-path", p.Path.String()},
				{"OTHER", "nix-nar-hash", p.NarHash},
			},
		})
		for _, r := range p.References {
			if r != p.Path {
				doc.Relationships = append(doc.Relationships, spdxRelationship{spdxID(p.Path), "DEPENDS_ON", spdxID(r)})
			}
		}
	}
	return marshal(doc)
}

// spdxID makes an identifier of a store path: a hash is one already.
func spdxID(p nixstore.StorePath) string { return "SPDXRef-" + p.Hash() }

// splitVersion splits a name where Nix does (libstore/names.cc): at the first dash
// before something that is no letter. The name of an output at the end is no part
// of the version; it stays part of the name.
func splitVersion(s string) (name, version string) {
	for i := 1; i < len(s)-1; i++ {
		if s[i] != '-' || isLetter(s[i+1]) {
			continue
		}
		name, version = s[:i], s[i+1:]
		base, output, ok := cutLast(version, '-')
		if ok && slices.Contains([]string{"bin", "dev", "devdoc", "debug", "dist", "doc", "info", "lib", "man", "static"}, output) {
			return name + "-" + output, base
		}
		return name, version
	}
	return s, ""
}

func cutLast(s string, sep byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
