package nixcli

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/closured/closured/nixstore"
)

// bare is a store that only runs programs.
func bare(t *testing.T) *Store {
	t.Helper()
	return &Store{cfg: Config{StateDir: t.TempDir()}, log: slog.New(slog.DiscardHandler)}
}

func TestFault16ChildThatKeepsItsPipeOpen(t *testing.T) {
	t.Parallel()
	var lines []string
	// The child leaves the group, so that it outlives its parent and the pipe stays open.
	res, err := bare(t).run(t.Context(), command{
		program: "/bin/sh", args: []string{"-c", "setsid sleep 20 & echo out; echo err >&2"},
		env: []string{"PATH=/usr/bin:/bin"}, onLine: func(l []byte) { lines = append(lines, string(l)) },
	})
	if err != nil || res.exit != 0 || string(res.stdout) != "out\n" || strings.Join(lines, "") != "err" {
		t.Errorf("run gave %q, %d, %v, lines %q", res.stdout, res.exit, err, lines)
	}
}

func TestRunEndsTheGroupWithItsContext(t *testing.T) {
	t.Parallel()
	why := errors.New("nobody waits")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(100*time.Millisecond, func() { cancel(why) })
	_, err := bare(t).run(ctx, command{program: "/bin/sh", args: []string{"-c", "sleep 600 | sleep 600"}})
	if !errors.Is(err, why) {
		t.Errorf("run gave %v, want the cause", err)
	}
}

func TestRunGivesTheExitCode(t *testing.T) {
	t.Parallel()
	res, err := bare(t).run(t.Context(), command{program: "/bin/sh", args: []string{"-c", "exit 100"}})
	if err != nil || res.exit != 100 {
		t.Errorf("run gave %d, %v, want 100", res.exit, err)
	}
	if _, err := bare(t).run(t.Context(), command{program: "/nonexistent"}); err == nil {
		t.Error("a program that is not there ran")
	}
}

func TestOutputIsBounded(t *testing.T) {
	t.Parallel()
	longest := 0
	w := &lineWriter{emit: func(l []byte) { longest = max(longest, len(l)) }}
	for range 10 {
		_, _ = w.Write(bytes.Repeat([]byte("x"), lineMax))
	}
	w.flush()
	b := &boundedBuffer{max: 10}
	for range 10 {
		_, _ = b.Write([]byte("1234567"))
	}
	if longest != lineMax || b.buf.Len() != 10 {
		t.Errorf("kept a line of %d and a buffer of %d bytes", longest, b.buf.Len())
	}
	var last tail
	for range 3 * logLines {
		last.add("l")
	}
	if len(last.lines) != logLines {
		t.Errorf("kept %d lines", len(last.lines))
	}
}

func TestSupportedVersions(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{
		"2.8.0": true, "2.7.9": false, "1.11": false, "2.34.8": true, "2.92.0-lix": true, "3.0": true, "2.18pre1": true, "odd": true,
	} {
		if got := supported(version); got != want {
			t.Errorf("supported(%q) = %t, want %t", version, got, want)
		}
	}
}

func TestHashesBecomeSRI(t *testing.T) {
	t.Parallel()
	got, err := sri("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	if want := "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="; got != want || err != nil {
		t.Errorf("sri gave %s, %v, want %s", got, err, want)
	}
	for _, bad := range []string{"", "sha256:", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:zz", "sha256-47DEQ"} {
		if _, err := sri(bad); !errors.Is(err, nixstore.ErrCorrupt) {
			t.Errorf("sri(%q) gave %v, want ErrCorrupt", bad, err)
		}
	}
}

func TestBuildGroupNeedsMembers(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"root:x:0:\nnixbld:x:30000:nixbld1,nixbld2\n": "nixbld",
		"nixbld:x:30000:\n":                           "",
		"users:x:100:nixbld\n":                        "",
	} {
		file := filepath.Join(t.TempDir(), "group")
		writeTestFile(t, file, text)
		if got, err := buildGroup(file); got != want || err != nil {
			t.Errorf("of %q: %q, %v, want %q", text, got, err, want)
		}
	}
	if got, err := buildGroup("/nonexistent"); got != "" || err != nil {
		t.Errorf("without the file: %q, %v", got, err)
	}
}

func TestMergeExpressionIsSortedByTheCaller(t *testing.T) {
	t.Parallel()
	expr := mergeExpr([]nixstore.StorePath{nixstore.MustParseStorePath(aPath), nixstore.MustParseStorePath(aDep)})
	if !strings.Contains(expr, `[ "`+aPath+`" "`+aDep+`" ]`) {
		t.Errorf("the expression lacks the list of roots:\n%s", expr)
	}
}

func writeTestFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
