package nixeval

import (
	_ "embed" // the Nix files
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixeval/jail"
)

//go:embed nix/outputs.nix
var outputsNix string

//go:embed nix/set.nix
var setNix string

//go:embed nix/packages.nix
var packagesNix string

//go:embed nix/expression.nix
var expressionNix string

//go:embed nix/fetch.nix
var fetchNix string

// Places in the jail.
const (
	evalDir        = "/eval"  // our Nix files and the user's words
	setDir         = "/pkgs"  // the package set; messages may name it
	flakeDir       = "/flake" // a flake on this node
	cacheDir       = "/cache"
	packagesFile   = "packages.nix"
	expressionFile = "expression.nix"
	fetchFile      = "fetch.nix"
	sourceFile     = "source.nix"
)

// withFlakes are the features that flakes and the program nix need.
const withFlakes = "nix-command flakes"

const exprMax = 64 << 10 // bytes; a volume's attributes end at 4 KiB, a NixImage's do not

// job is one evaluation: what goes into the jail and what Nix is asked there.
type job struct {
	what            string // the object of messages
	args            []string
	files           map[string][]byte
	binds           []jail.Bind
	names           []string // of packages
	settings        map[string]string
	network         bool
	store           bool // the physical store is seen
	cache           bool // the cache is seen: nothing of a user's but names is evaluated
	needsFetchedSet bool
}

// request is request.json.
type request struct {
	System string     `json:"system"`
	Flake  string     `json:"flake"` // of the package set; empty: it is a path
	Names  [][]string `json:"names"`
}

// jobOf checks src and says how to evaluate it.
func (e *Evaluator) jobOf(src nixstore.Source) (*job, error) {
	switch src.Kind {
	case nixstore.SourcePackages:
		return e.packagesJob(src.Packages)
	case nixstore.SourceExpr:
		return e.exprJob(src.Expr)
	case nixstore.SourceFlake:
		return e.flakeJob(src.Flake)
	default:
		return nil, nixstore.Fail(nixstore.ErrInvalid, "name packages, a flake or an expression",
			"a source of the kind %s is not evaluated", nixstore.Quote(string(src.Kind)))
	}
}

func (e *Evaluator) packagesJob(names []string) (*job, error) {
	paths, err := parseNames(names)
	if err != nil {
		return nil, err
	}
	if e.set.isEmpty() {
		return nil, nixstore.Fail(nixstore.ErrEvaluation, "name store paths, or ask the operator to set --package-set",
			"this node has no package set, so that %s cannot be looked up", joinNames(names))
	}
	j := e.setJob("packages "+joinNames(names), packagesFile, paths)
	j.names = names
	return j, e.showSet(j)
}

// setJob evaluates one of our files, which may ask for the package set.
func (e *Evaluator) setJob(what, file string, names [][]string) *job {
	ask := request{System: nixstore.System(), Names: names}
	j := &job{what: what, settings: map[string]string{"restrict-eval": "true"}}
	if f := e.set.flake; f != nil {
		j.network = f.dir == ""
		j.store, j.cache = true, j.network // Nix reads a flake where it fetched it to
		j.settings["experimental-features"] = withFlakes
		ask.Flake = f.inJail(setDir)
	}
	j.files = map[string][]byte{
		"outputs.nix": []byte(outputsNix), "set.nix": []byte(setNix), "request.json": ask.encode(),
		packagesFile: []byte(packagesNix), expressionFile: []byte(expressionNix), fetchFile: []byte(fetchNix),
	}
	j.args = []string{
		"nix-instantiate", "--eval", "--strict", "--json", "--read-write-mode",
		"-I", "eval=" + evalDir, "-I", "pkgs=" + setDir, "-I", "nixpkgs=" + setDir, "<eval/" + file + ">",
	}
	return j
}

func (r request) encode() []byte {
	data, err := json.Marshal(r)
	if err != nil {
		return nil // not reached: every field is a string
	}
	return data
}

// showSet shows a package set of this node's disk in the jail.
func (e *Evaluator) showSet(j *job) error {
	if e.set.path == "" && (e.set.flake == nil || e.set.flake.dir == "") {
		return nil
	}
	path, err := e.set.resolve()
	if err != nil {
		return err
	}
	j.binds = append(j.binds, jail.Bind{From: path, To: setDir})
	return nil
}

func (e *Evaluator) exprJob(text string) (*job, error) {
	const next = "write an expression that gives a derivation, such as: with import <nixpkgs> {}; hello"
	switch {
	case strings.TrimSpace(text) == "":
		return nil, nixstore.Fail(nixstore.ErrInvalid, next, "the expression is empty")
	case len(text) > exprMax:
		return nil, nixstore.Fail(nixstore.ErrInvalid, "move parts of it to the package set", "the expression is longer than 64 KiB")
	case strings.ContainsRune(text, 0):
		return nil, nixstore.Fail(nixstore.ErrInvalid, next, "the expression holds a NUL byte")
	}
	j := e.setJob("the expression", expressionFile, nil)
	j.files[sourceFile] = []byte(text)
	if e.set.flake == nil {
		return j, e.showSet(j)
	}
	// The package set is a flake: its files are shown as a folder, so that the
	// user's words run without network, store, cache and flakes.
	delete(j.settings, "experimental-features")
	j.files["request.json"] = request{System: nixstore.System()}.encode()
	j.network, j.store, j.cache, j.needsFetchedSet = false, false, false, true
	return j, nil
}

func (e *Evaluator) flakeJob(text string) (*job, error) {
	f, err := parseFlakeRef(text)
	if err != nil {
		return nil, err
	}
	j := &job{
		what: "the flake " + quoteRef(text), network: f.dir == "", store: true,
		settings: map[string]string{"pure-eval": "true", "experimental-features": withFlakes},
	}
	if f.dir != "" {
		if err := e.allowFlakeDir(&f); err != nil {
			return nil, err
		}
		j.binds = []jail.Bind{{From: f.dir, To: flakeDir, NoSymlinks: true}}
	}
	ref := f.inJail(flakeDir)
	if f.attr != "" {
		ref += "#" + f.attr
	}
	j.args = []string{"nix", "eval", "--json", "--no-write-lock-file", "--apply", outputsNix, "--", ref}
	return j, nil
}

// inJail gives the reference as it is written in the jail, where the folder of
// a flake on this node is at dir.
func (f *flakeRef) inJail(dir string) string {
	if f.dir == "" {
		return f.ref
	}
	if f.query == "" {
		return "path:" + dir
	}
	return "path:" + dir + "?" + f.query
}

// allowFlakeDir refuses flakes of the node's disk outside Config.FlakeDirs, and
// folders that are no flake: Nix copies all of the folder to the store before
// it looks.
func (e *Evaluator) allowFlakeDir(f *flakeRef) error {
	allowed, own := false, filepath.Join(e.cfg.StoreRoot, "nix")
	for _, dir := range e.cfg.FlakeDirs {
		rel, err := filepath.Rel(dir, f.dir)
		allowed = allowed || err == nil && filepath.IsLocal(rel)
	}
	if f.dir == own || strings.HasPrefix(f.dir, own+"/") {
		allowed = false // it holds the sources of others
	}
	if !allowed {
		return nixstore.Fail(nixstore.ErrForbidden, "use a flake that is fetched, such as github:<owner>/<repository>",
			"the flake %s is on the node's disk, which the operator does not allow", quoteRef(f.ref))
	}
	if err := findFlakeFile(f.dir); err != nil {
		cause := "it cannot be opened"
		switch {
		case errors.Is(err, unix.ELOOP):
			cause = "its path holds a symbolic link"
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
			cause = "there is no flake.nix in it"
		}
		return nixstore.Fail(nixstore.ErrNotFound, "name a folder that holds a flake.nix itself",
			"the folder of the flake %s cannot be used: %s", quoteRef(f.ref), cause)
	}
	return nil
}

// findFlakeFile looks for dir/flake.nix without following any symbolic link.
func findFlakeFile(dir string) error {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	fd, err := -1, error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		fd, err = unix.Openat2(unix.AT_FDCWD, filepath.Join(dir, "flake.nix"), &how)
	}
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), "flake.nix")
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fs.ErrNotExist
	}
	return nil
}
