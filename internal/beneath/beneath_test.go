package beneath_test

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	diff "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/closured/closured/internal/beneath"
	"github.com/closured/closured/nixstore"
)

// tree makes a folder with one of everything, and opens it.
func tree(t *testing.T) int {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(dir+"/file", []byte("hello"), 0o444))
	must(os.WriteFile(dir+"/program", nil, 0o555))
	must(os.Mkdir(dir+"/folder", 0o755))
	must(os.WriteFile(dir+"/folder/inner", []byte("x"), 0o411))
	must(os.Symlink("file", dir+"/link"))
	must(os.Symlink("folder", dir+"/folder-link"))
	must(os.Symlink("/etc", dir+"/etc"))
	must(unix.Mkfifo(dir+"/fifo", 0o644))
	fd, err := beneath.Root(dir)
	must(err)
	t.Cleanup(func() { beneath.Close(fd) })
	return fd
}

func TestOnlyWhatStandsBelowIsOpened(t *testing.T) {
	t.Parallel()
	dir := tree(t)
	folder := func(dir int, name string) error {
		fd, err := beneath.Folder(dir, name)
		beneath.Close(fd)
		return err
	}
	file := func(dir int, name string) error {
		fd, _, err := beneath.File(dir, name)
		beneath.Close(fd)
		return err
	}
	for name, c := range map[string]struct {
		open func(int, string) error
		name string
		want error
	}{
		"a file":                           {file, "file", nil},
		"a file in a folder":               {file, "folder/inner", nil},
		"a path that goes up and down":     {file, "folder/../file", nil},
		"a folder":                         {folder, "folder", nil},
		"the folder itself":                {folder, ".", nil},
		"a file that is a symlink":         {file, "link", unix.ELOOP},
		"a folder that is a symlink":       {folder, "folder-link", unix.ENOTDIR},
		"a path through a symlink":         {file, "folder-link/inner", unix.ELOOP},
		"a path through a symlink outward": {file, "etc/passwd", unix.ELOOP},
		"a path out of the folder":         {file, "../file", unix.EXDEV},
		"an absolute path":                 {file, "/etc/passwd", unix.EXDEV},
		"the folder above":                 {folder, "..", unix.EXDEV},
		"a file that is missing":           {file, "gone", unix.ENOENT},
		"a folder that is missing":         {folder, "gone", unix.ENOENT},
		"a folder that is a file":          {folder, "file", unix.ENOTDIR},
		"a file that is a folder":          {file, "folder", beneath.ErrNotFile},
		"a file that is a FIFO":            {file, "fifo", beneath.ErrNotFile},
	} {
		if err := c.open(dir, c.name); !errors.Is(err, c.want) {
			t.Errorf("%s gives %v, want %v", name, err, c.want)
		}
	}
}

func TestDescriptorsAreNotInherited(t *testing.T) {
	t.Parallel()
	dir := tree(t)
	file, _, err := beneath.File(dir, "file")
	if err != nil {
		t.Fatal(err)
	}
	defer beneath.Close(file)
	folder, err := beneath.Folder(dir, "folder")
	if err != nil {
		t.Fatal(err)
	}
	defer beneath.Close(folder)
	for _, fd := range []int{dir, file, folder} {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("the flags of descriptor %d are %#x, %v", fd, flags, err)
		}
	}
	beneath.Close(-1)
}

func TestInfo(t *testing.T) {
	t.Parallel()
	dir := tree(t)
	for name, want := range map[string]beneath.Info{
		"file":         {Kind: unix.DT_REG, Size: 5},
		"program":      {Kind: unix.DT_REG, Program: true},
		"folder/inner": {Kind: unix.DT_REG, Size: 1},
		"link":         {Kind: unix.DT_LNK, Size: 4, Program: true},
		"fifo":         {Kind: unix.DT_FIFO},
	} {
		if got, err := beneath.Stat(dir, name); err != nil || got != want {
			t.Errorf("%s is %+v, %v, want %+v", name, got, err, want)
		}
	}
	if _, err := beneath.Stat(dir, "gone"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("what is missing gives %v", err)
	}
	fd, info, err := beneath.File(dir, "file")
	if err != nil {
		t.Fatal(err)
	}
	defer beneath.Close(fd)
	if again, err := beneath.StatFD(fd); err != nil || again != info || info.Size != 5 {
		t.Errorf("the open file is %+v, then %+v, %v", info, again, err)
	}
	buf := make([]byte, 8)
	for _, want := range []string{"hello", ""} {
		if n, err := beneath.Read(fd, buf); err != nil || string(buf[:n]) != want {
			t.Errorf("reading gives %q, %v, want %q", buf[:max(n, 0)], err, want)
		}
	}
}

func TestReadLink(t *testing.T) {
	t.Parallel()
	dir := tree(t)
	buf := make([]byte, unix.PathMax)
	if target, err := beneath.ReadLink(dir, "etc", buf); err != nil || target != "/etc" {
		t.Errorf("the target by name is %q, %v", target, err)
	}
	fd, err := beneath.Open(dir, "etc", unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		t.Fatal(err)
	}
	defer beneath.Close(fd)
	if target, err := beneath.ReadLink(fd, "", buf); err != nil || target != "/etc" {
		t.Errorf("the target of the open symlink is %q, %v", target, err)
	}
	for name, want := range map[string]error{"file": unix.EINVAL, "gone": unix.ENOENT} {
		if _, err := beneath.ReadLink(dir, name, buf); !errors.Is(err, want) {
			t.Errorf("%s gives %v, want %v", name, err, want)
		}
	}
}

func byName(a, b beneath.Entry) int { return cmp.Compare(a.Name, b.Name) }

func TestReadFolder(t *testing.T) {
	t.Parallel()
	fd, err := beneath.Folder(tree(t), ".")
	if err != nil {
		t.Fatal(err)
	}
	defer beneath.Close(fd)
	got, _, err := beneath.ReadFolder(fd, make([]byte, 4096), math.MaxInt)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, byName)
	want := []beneath.Entry{
		{Name: "etc", Kind: unix.DT_LNK},
		{Name: "fifo", Kind: unix.DT_FIFO},
		{Name: "file", Kind: unix.DT_REG},
		{Name: "folder", Kind: unix.DT_DIR},
		{Name: "folder-link", Kind: unix.DT_LNK},
		{Name: "link", Kind: unix.DT_LNK},
		{Name: "program", Kind: unix.DT_REG},
	}
	if d := diff.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestManyNamesAreReadInBoundedMemory(t *testing.T) {
	t.Parallel()
	const count, length = 2000, 100
	dir := t.TempDir()
	want := make([]beneath.Entry, count)
	for i := range want {
		want[i] = beneath.Entry{Name: fmt.Sprintf("%0*d", length, i), Kind: unix.DT_REG}
		if err := os.WriteFile(dir+"/"+want[i].Name, nil, 0o444); err != nil {
			t.Fatal(err)
		}
	}
	root, err := beneath.Root(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer beneath.Close(root)
	read := func(room int) ([]beneath.Entry, int, error) {
		fd, err := beneath.Folder(root, ".")
		if err != nil {
			t.Fatal(err)
		}
		defer beneath.Close(fd)
		return beneath.ReadFolder(fd, make([]byte, 16<<10), room)
	}
	got, used, err := read(math.MaxInt)
	slices.SortFunc(got, byName)
	if err != nil || used < count*length || !slices.Equal(got, want) {
		t.Errorf("%d names in %d bytes, %v", len(got), used, err)
	}
	if got, _, err := read(used); err != nil || len(got) != count {
		t.Errorf("with as much room as they take: %d names, %v", len(got), err)
	}
	if got, _, err := read(used - 1); !errors.Is(err, beneath.ErrTooManyNames) || got != nil {
		t.Errorf("with one byte less: %d names, %v", len(got), err)
	}
}

func TestAFolderThatIsNoFolder(t *testing.T) {
	t.Parallel()
	fd, _, err := beneath.File(tree(t), "file")
	if err != nil {
		t.Fatal(err)
	}
	defer beneath.Close(fd)
	if _, _, err := beneath.ReadFolder(fd, make([]byte, 4096), math.MaxInt); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("listing a file gives %v", err)
	}
}

func TestErrorsTellDamageFromTrouble(t *testing.T) {
	t.Parallel()
	for _, err := range []error{unix.ENOENT, unix.ELOOP, unix.EXDEV, unix.ENOTDIR, beneath.ErrNotFile, beneath.ErrTooManyNames} {
		got := beneath.Unreadable(fmt.Errorf("a step: %w", err), "/nix/store/x: y")
		if !errors.Is(got, nixstore.ErrCorrupt) || !strings.Contains(got.Error(), "/nix/store/x: y") || !strings.Contains(got.Error(), err.Error()) {
			t.Errorf("%v became %v", err, got)
		}
	}
	for _, err := range []error{unix.EIO, unix.EMFILE, unix.EACCES} {
		got := beneath.Unreadable(err, "/nix/store/x")
		if errors.Is(got, nixstore.ErrCorrupt) || !errors.Is(got, err) || !strings.Contains(got.Error(), "/nix/store/x") {
			t.Errorf("%v became %v", err, got)
		}
	}
}
