package jail

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// Bind shows a file, folder, socket or device of the host in the jail. Mounts
// below From are not shown. It is nosuid, and nodev unless From is a device.
type Bind struct {
	From       string `json:"from"`       // absolute path on the host
	To         string `json:"to"`         // absolute, clean path in the jail; parents are made
	Writable   bool   `json:"writable"`   // false: read-only
	NoSymlinks bool   `json:"noSymlinks"` // refuse a From with a symbolic link anywhere: for paths out of a user's words
}

// Spec says what to run and all that it may see and use.
type Spec struct {
	Args  []string          `json:"args"`  // program (a path in the jail) and its arguments; at least one
	Env   []string          `json:"env"`   // the whole environment, "NAME=value"
	Dir   string            `json:"dir"`   // working directory in the jail; empty: "/"
	Binds []Bind            `json:"binds"` // made in this order
	Links map[string]string `json:"links"` // symbolic links to make: path in the jail to target
	Files map[string][]byte `json:"files"` // files to write: path in the jail to content; readable by all, owned by root
	Devs  bool              `json:"devs"`  // show null, zero, random and urandom in /dev
	Proc  bool              `json:"proc"`  // mount a proc of the jail's own pid namespace

	UID     uint32 `json:"uid"`     // who runs it; not 0
	GID     uint32 `json:"gid"`     // its group, without others; not 0
	Network bool   `json:"network"` // true: the caller's network namespace; false: one with nothing in it

	MemoryBytes uint64 `json:"memoryBytes"` // bound of the address space of each process; 0: none
	FileBytes   uint64 `json:"fileBytes"`   // bound of the size of each written file; 0: none
	// Processes bounds the processes and threads of UID, which the kernel counts
	// over the whole machine and not in the jail (setrlimit(2)); 0: none.
	Processes uint64        `json:"processes"`
	OpenFiles uint64        `json:"openFiles"` // bound of open files of each process; 0: 1024
	TmpBytes  uint64        `json:"tmpBytes"`  // size of /tmp, the one place that UID may write; 0: 64 MiB
	Timeout   time.Duration `json:"timeout"`   // wall clock; 0: none but ctx
}

const (
	defaultTmpBytes  = 64 << 20
	defaultOpenFiles = 1024
	rootSlackBytes   = 1 << 20 // of the tmpfs at /, beside its files: folders and mount points
)

// ErrSpec is the error of a Spec that cannot be run.
var ErrSpec = errors.New("invalid jail specification")

// validate gives every problem of s, each an ErrSpec.
func (s *Spec) validate() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{ErrSpec}, args...)...))
	}
	if len(s.Args) == 0 {
		bad("there is no program")
	}
	for _, a := range slices.Concat(s.Args, s.Env) {
		if strings.ContainsRune(a, 0) {
			bad("an argument or variable holds a NUL byte")
		}
	}
	if s.UID == 0 || s.GID == 0 {
		bad("uid and gid must not be 0")
	}
	for _, b := range s.Binds {
		if !isCleanAbsolute(b.From) || !isCleanAbsolute(b.To) || b.To == "/" {
			bad("bind of %q to %q is not between clean absolute paths", b.From, b.To)
		}
	}
	for name := range s.Files {
		if !isCleanAbsolute(name) {
			bad("file name %q is not a clean absolute path", name)
		}
	}
	for name := range s.Links {
		if !isCleanAbsolute(name) {
			bad("link name %q is not a clean absolute path", name)
		}
	}
	return errors.Join(errs...)
}

func isCleanAbsolute(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && !strings.ContainsRune(p, 0)
}

// rootBytes is the size of the tmpfs at /: what the files need and a slack.
func (s *Spec) rootBytes() uint64 {
	const pageBytes = 64 << 10 // the largest page size of arm64
	sum := uint64(rootSlackBytes)
	for _, data := range s.Files {
		sum += uint64(len(data)) + pageBytes
	}
	return sum
}
