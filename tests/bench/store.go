package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// shape is a closure to make.
type shape struct {
	name  string
	paths int
	files int // in each path
	large int // bytes of one more file in each path, about
}

// filesPerDir is how many files share a folder inside a store path.
const filesPerDir = 10

const base32 = "0123456789abcdfghijklmnpqrsvwxyz" // Nix's digits

// path gives the store path of node i.
func (s shape) path(i int) string {
	name := fmt.Sprintf("bench-%s-%d", s.name, i)
	sum := sha256.Sum256([]byte(name))
	digits := make([]byte, 32)
	for k := range digits {
		digits[k] = base32[sum[k]%32]
	}
	return "/nix/store/" + string(digits) + "-" + name
}

// make writes the closure into the store below root and registers it in Nix's
// database, and gives its root. Thousands of builds would take minutes and give
// the same: what is measured afterwards is files, rows and references.
func (s shape) make(ctx context.Context, root string) (string, error) {
	var db bytes.Buffer // the format of nix-store --dump-db
	for i := range s.paths {
		refs := s.references(i)
		sum, size, err := s.writePath(root, i, refs)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&db, "%s\n%x\n%d\n\n%d\n", s.path(i), sum, size, len(refs))
		for _, r := range refs {
			fmt.Fprintln(&db, r)
		}
	}
	cmd := exec.CommandContext(ctx, "nix-store", "--load-db")
	cmd.Env = append(os.Environ(), "NIX_REMOTE=local?root="+root, "NIX_CONFIG=build-users-group =\nsubstituters =")
	cmd.Stdin = &db
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("registering the closure %q: %w: %s", s.name, err, out)
	}
	return s.path(0), nil
}

// references gives node i's two children in a heap and two later nodes, so that
// the closure of node 0 is all of them.
func (s shape) references(i int) []string {
	var refs []string
	for _, j := range []int{2*i + 1, 2*i + 2, i + 7, i + 40} {
		if j < s.paths {
			refs = append(refs, s.path(j))
		}
	}
	return refs
}

// writePath writes node i as Nix leaves it (modes 0444 and 0555, mtime 1), and
// gives hash and size of its NAR.
func (s shape) writePath(root string, i int, refs []string) (sum []byte, size int64, err error) {
	dir := filepath.Join(root, s.path(i))
	h := &counter{hash: sha256.New()}
	nar(h, "nix-archive-1", "(", "type", "directory")
	random := rand.New(rand.NewPCG(uint64(i), uint64(s.paths))) // the same on each run
	for k := 0; k*filesPerDir < s.files; k++ {
		sub := fmt.Sprintf("dir%02d", k)
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, 0, err
		}
		nar(h, "entry", "(", "name", sub, "node", "(", "type", "directory")
		for f := k * filesPerDir; f < min(s.files, (k+1)*filesPerDir); f++ {
			name := fmt.Sprintf("file%03d", f)
			content := contentOf(random, refs)
			if err := writeFile(filepath.Join(dir, sub, name), content); err != nil {
				return nil, 0, err
			}
			nar(h, "entry", "(", "name", name, "node", "(", "type", "regular", "contents", content, ")", ")")
		}
		nar(h, ")", ")")
		if err := seal(filepath.Join(dir, sub)); err != nil {
			return nil, 0, err
		}
	}
	if s.large > 0 { // its name comes after those of the folders
		content := s.noise(random)
		if err := writeFile(filepath.Join(dir, "large"), content); err != nil {
			return nil, 0, err
		}
		nar(h, "entry", "(", "name", "large", "node", "(", "type", "regular", "contents", content, ")", ")")
	}
	nar(h, ")")
	return h.hash.Sum(nil), h.n, seal(dir)
}

// noise gives content for the large file: of very different sizes, as libraries are.
func (s shape) noise(random *rand.Rand) string {
	size := s.large / 2
	if random.IntN(16) == 0 {
		size = s.large * 8
	}
	content := make([]byte, 0, size+8)
	for len(content) < size {
		content = binary.LittleEndian.AppendUint64(content, random.Uint64())
	}
	return string(content)
}

func writeFile(path, content string) error {
	if err := os.WriteFile(path, []byte(content), 0o444); err != nil {
		return err
	}
	return os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0))
}

func seal(dir string) error {
	if err := os.Chmod(dir, 0o555); err != nil {
		return err
	}
	return os.Chtimes(dir, time.Unix(1, 0), time.Unix(1, 0))
}

// contentOf gives 100 to 3,000 bytes that name the references.
func contentOf(random *rand.Rand, refs []string) string {
	content := make([]byte, 100+random.IntN(2900))
	for k := range content {
		content[k] = base32[random.IntN(32)]
	}
	return fmt.Sprintln(refs) + string(content)
}

// counter hashes and counts.
type counter struct {
	hash hash.Hash
	n    int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.hash.Write(p)
}

// nar writes the strings of a NAR: length, bytes, and padding to eight.
func nar(w io.Writer, words ...string) {
	for _, word := range words {
		padded := make([]byte, 8+(len(word)+7)/8*8)
		binary.LittleEndian.PutUint64(padded, uint64(len(word)))
		copy(padded[8:], word)
		_, _ = w.Write(padded) // a hash never fails
	}
}
