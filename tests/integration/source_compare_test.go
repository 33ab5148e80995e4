//go:build privileged

package integration_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/tests/agent"
)

// requireClosure checks all that a pod may rely on in a volume: exactly the
// closure of root, each path like the store's, nothing beside it, the two files
// of var, and one mount with the right flags. What Nix says is asked of Nix.
func (n node) requireClosure(v agent.Volume, root string) {
	n.t.Helper()
	at := n.Target(v)
	paths := nixtest.Run(n.t, n.StateDir(), "nix-store", "-qR", root)
	slices.Sort(paths)
	requireNames(n.t, at, "store", "var")
	requireNames(n.t, filepath.Join(at, "var"), "closure.json", "result")
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = filepath.Base(p)
	}
	requireNames(n.t, filepath.Join(at, "store"), names...)
	for i, p := range paths {
		want := describeTree(n.t, n.StateDir()+p)
		if diff := cmp.Diff(want, describeTree(n.t, filepath.Join(at, "store", names[i]))); diff != "" {
			n.t.Errorf("%s differs from the store's (-store +volume):\n%s", p, diff)
		}
	}
	if got, err := os.Readlink(filepath.Join(at, "var", "result")); err != nil || got != root {
		n.t.Errorf("var/result is %q (%v), want %s", got, err, root)
	}
	n.requireList(at, root, paths)
	n.requireOneMount(at)
}

func requireNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]string, 0, len(entries))
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the names in %s (-want +got):\n%s", dir, diff)
	}
}

// describeTree gives for each name below root all that `diff -r` and `ls -l` see:
// type, permissions, owner, time, target of a link, size and digest of a file.
func describeTree(t *testing.T, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if info.Mode().Type() != entry.Type() {
			t.Errorf("%s is listed with the type %s and has %s", path, entry.Type(), info.Mode().Type())
		}
		found[rel], err = describeFile(path, info)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func describeFile(path string, info fs.FileInfo) (string, error) {
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("%s has no Stat_t", path)
	}
	text := fmt.Sprintf("%s %d:%d at %d", info.Mode(), sys.Uid, sys.Gid, info.ModTime().Unix())
	switch {
	case info.Mode().IsRegular():
		data, err := os.ReadFile(path)
		return fmt.Sprintf("%s, %d bytes, %x", text, info.Size(), sha256.Sum256(data)), err
	case info.Mode().Type() == fs.ModeSymlink:
		to, err := os.Readlink(path)
		return text + " -> " + to, err
	default:
		return text, nil
	}
}

// inVolume gives where a pod with the volume at /nix finds a path below
// /nix/store, with the links on the way followed as in the pod.
func inVolume(t *testing.T, at, path string) string {
	t.Helper()
	rest, ok := strings.CutPrefix(path, "/nix/")
	if !ok {
		t.Fatalf("%s is not below /nix", path)
	}
	found := at
	for part := range strings.SplitSeq(strings.TrimSuffix(rest, "/"), "/") {
		found = filepath.Join(found, part)
		to, err := os.Readlink(found)
		switch {
		case err != nil: // no link
		case strings.HasPrefix(to, "/nix/"):
			found = inVolume(t, at, to)
		case !filepath.IsAbs(to):
			found = filepath.Join(filepath.Dir(found), to)
		}
	}
	return found
}

// closureList is var/closure.json as it is documented for pods; that it is
// written a second time here is the point.
type closureList struct {
	Version int           `json:"version"`
	Root    string        `json:"root"`
	System  string        `json:"system"`
	Paths   []closurePath `json:"paths"`
}

type closurePath struct {
	Path       string   `json:"path"`
	NarHash    string   `json:"narHash"`
	NarSize    int64    `json:"narSize"`
	References []string `json:"references"`
}

// requireList checks var/closure.json against Nix: the hashes are those of what
// the pod reads, not only of what a database says.
func (n node) requireList(at, root string, paths []string) {
	n.t.Helper()
	data, err := os.ReadFile(filepath.Join(at, "var", "closure.json"))
	if err != nil {
		n.t.Fatal(err)
	}
	var list closureList
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&list); err != nil {
		n.t.Fatalf("reading closure.json: %v\n%s", err, data)
	}
	if list.Version != 1 || list.Root != root || list.System != nixstore.System() {
		n.t.Errorf("closure.json says version %d, root %s, system %s", list.Version, list.Root, list.System)
	}
	var told, seen []closurePath
	for _, p := range list.Paths {
		told = append(told, p)
		hash, size := archive(n.t, filepath.Join(at, "store", filepath.Base(p.Path)))
		seen = append(seen, closurePath{Path: p.Path, NarHash: hash, NarSize: size, References: p.References})
	}
	if diff := cmp.Diff(seen, told); diff != "" {
		n.t.Errorf("closure.json differs from the content (-content +closure.json):\n%s", diff)
	}
	if diff := cmp.Diff(n.database(paths), told); diff != "" {
		n.t.Errorf("closure.json differs from Nix's database (-database +closure.json):\n%s", diff)
	}
}

// database gives what Nix's database says of paths.
func (n node) database(paths []string) []closurePath {
	n.t.Helper()
	var all []closurePath
	words := nixtest.Run(n.t, n.StateDir(), "nix-store", append([]string{"--dump-db"}, paths...)...)
	for len(words) > 3 { // path, hash, size, deriver if it has one, number of references, references
		sum, err := hex.DecodeString(words[1])
		if err != nil {
			n.t.Fatal(err)
		}
		p := closurePath{Path: words[0], NarHash: sri(sum), NarSize: int64(number(n.t, words[2])), References: []string{}}
		words = words[3:]
		if strings.HasPrefix(words[0], "/") {
			words = words[1:]
		}
		references := number(n.t, words[0])
		p.References = append(p.References, words[1:1+references]...)
		slices.Sort(p.References)
		words = words[1+references:]
		all = append(all, p)
	}
	return all
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func sri(sum []byte) string { return "sha256-" + base64.StdEncoding.EncodeToString(sum) }

// archive gives the hash, in SRI form, and the size of path as a Nix archive
// (E. Dolstra, "The Purely Functional Software Deployment Model", figure 5.2).
func archive(t *testing.T, path string) (hash string, size int64) {
	t.Helper()
	a := archiver{to: sha256.New()}
	a.text("nix-archive-1")
	if err := a.node(path); err != nil {
		t.Fatal(err)
	}
	return sri(a.to.Sum(nil)), a.size
}

type archiver struct {
	to   hash.Hash
	size int64
}

func (a *archiver) write(p []byte) {
	_, _ = a.to.Write(p) // a hash never fails
	a.size += int64(len(p))
}

func (a *archiver) text(texts ...string) {
	for _, s := range texts {
		a.write(binary.LittleEndian.AppendUint64(nil, uint64(len(s))))
		a.write([]byte(s))
		a.write(make([]byte, (8-len(s)%8)%8))
	}
}

func (a *archiver) node(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	a.text("(", "type")
	switch info.Mode().Type() {
	case fs.ModeSymlink:
		to, err := os.Readlink(path)
		if err != nil {
			return err
		}
		a.text("symlink", "target", to)
	case fs.ModeDir:
		a.text("directory")
		if err := a.entries(path); err != nil {
			return err
		}
	default:
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		a.text("regular")
		if info.Mode()&0o100 != 0 {
			a.text("executable", "")
		}
		a.text("contents", string(data))
	}
	a.text(")")
	return nil
}

func (a *archiver) entries(dir string) error {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return err
	}
	for _, e := range entries {
		a.text("entry", "(", "name", e.Name(), "node")
		if err := a.node(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
		a.text(")")
	}
	return nil
}

// requireOneMount checks that one line of the mount table is for the volume, and
// that the flags which no pod may lose are the mount's own, not the file system's.
func (n node) requireOneMount(at string) {
	n.t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		n.t.Fatal(err)
	}
	var options []string
	for line := range strings.Lines(string(data)) {
		// proc(5): fields 5 and 6 are the mount point and the mount's options
		fields := strings.Fields(line)
		if len(fields) > 5 && (fields[4] == at || strings.HasPrefix(fields[4], at+"/")) {
			options = append(options, fields[5])
		}
	}
	if len(options) != 1 {
		n.t.Fatalf("%d lines of mountinfo are for %s", len(options), at)
	}
	for _, want := range []string{"ro", "nosuid", "nodev"} {
		if !slices.Contains(strings.Split(options[0], ","), want) {
			n.t.Errorf("the mount has the options %s, want %s among them", options[0], want)
		}
	}
}
