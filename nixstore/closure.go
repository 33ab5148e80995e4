package nixstore

import (
	"encoding/json"
	"runtime"
	"slices"
)

// PathInfo is what a store knows of one valid path.
type PathInfo struct {
	Path       StorePath   `json:"path"`
	NarHash    string      `json:"narHash"`    // SRI form, "sha256-…"
	NarSize    int64       `json:"narSize"`    // bytes of the NAR serialisation
	References []StorePath `json:"references"` // sorted; holds Path itself when it refers to itself
}

// Closure is a root and all that it references, transitively.
type Closure struct {
	Root StorePath
	// Registration identifies this registration of the root in its store: it
	// changes when the path is collected and realised again, so that whoever
	// keeps something made from the files can tell that they were replaced.
	Registration int64
	Paths        []PathInfo // sorted by path, the root among them
}

// NarSize gives the sum of the paths' NAR sizes in bytes.
func (c Closure) NarSize() int64 {
	var sum int64
	for _, p := range c.Paths {
		sum += p.NarSize
	}
	return sum
}

// Has tells whether p belongs to the closure.
func (c Closure) Has(p StorePath) bool {
	_, found := slices.BinarySearchFunc(c.Paths, p, func(i PathInfo, p StorePath) int { return i.Path.Compare(p) })
	return found
}

// manifestVersion is the version of the format of closure.json.
const manifestVersion = 1

// Manifest gives the bytes of var/closure.json: equal closures give equal bytes
// on every node.
func (c Closure) Manifest(system string) ([]byte, error) {
	paths := make([]PathInfo, 0, len(c.Paths))
	for _, info := range c.Paths {
		if info.References == nil {
			info.References = []StorePath{} // "[]" and never "null", however the closure was read
		}
		paths = append(paths, info)
	}
	doc := struct {
		Version int        `json:"version"`
		Root    StorePath  `json:"root"`
		System  string     `json:"system"`
		Paths   []PathInfo `json:"paths"`
	}{manifestVersion, c.Root, system, paths}
	data, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

// System gives the Nix system of this program, such as "x86_64-linux".
func System() string {
	return map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH] + "-linux"
}
