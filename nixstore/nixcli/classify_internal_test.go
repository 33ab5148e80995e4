package nixcli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/closured/closured/nixstore"
)

const (
	aPath = "/nix/store/icbwjcwyd1jdw3sk5npyvsba3qayyp8f-syn-cache-2-0"
	aDep  = "/nix/store/lnzbdx4jmbfig7vr6y35h8v1hrndpsl4-busybox-tree"
	aDrv  = "/nix/store/6dqvjdwcx341rj6bga4xyyk3bix204qp-bad.drv"
	cache = "http://127.0.0.1:40429"
	nar   = cache + "/nar/0dpnhxl4nrzl63dwzm2frzkbjw9qqapzzw5j5gj844kqlvvccyl2.nar"
)

// story is a log as Nix writes it, a line an event.
type story []string

func msg(level int, text string) string {
	data, err := json.Marshal(map[string]any{"action": "msg", "level": level, "msg": text})
	if err != nil {
		return err.Error()
	}
	return "@nix " + string(data)
}

func errorMsg(text string) string   { return msg(0, "\x1b[31;1merror:\x1b[0m "+text) }
func warningMsg(text string) string { return msg(1, "\x1b[35;1mwarning:\x1b[0m "+text) }

func starts(id, kind, parent int, fields ...string) string {
	data, err := json.Marshal(map[string]any{"action": "start", "id": id, "type": kind, "parent": parent, "fields": fields})
	if err != nil {
		return err.Error()
	}
	return "@nix " + string(data)
}

func says(id int, line string) string {
	return fmt.Sprintf(`@nix {"action":"result","fields":[%q],"id":%d,"type":101}`, line, id)
}

// told is what an account makes of a story.
func (s story) told() *account {
	told := &account{first: aPath}
	for _, line := range s {
		told.take([]byte(line))
	}
	return told
}

// asked is how each story of a fetch begins.
func asked() story {
	return story{
		starts(1, activityPathInfo, 0, aPath, cache), starts(2, activitySubstitute, 0, aDep, cache),
		starts(3, activityCopyPath, 2, aDep, cache, "local"), starts(4, activityTransfer, 3, nar),
	}
}

// classifyCase is a story, and the error that it must become.
type classifyCase struct {
	log  story
	kind error
	want []string // what the message names
}

const (
	failed   = "build of '" + aPath + "' failed"
	required = "path '" + aPath + "' is required, but there is no substituter that can build it"
)

// signatureCases are stories of fetches without the signature that is wanted.
func signatureCases() map[string]classifyCase {
	return map[string]classifyCase{
		"2.8: unsigned": {
			story{warningMsg("the substitute for '" + aPath + "' from '" + cache + "' is not signed by any of the keys in 'trusted-public-keys'"), errorMsg(failed)},
			nixstore.ErrUntrusted,
			[]string{cache, aPath, "sign it"},
		},
		"2.26: unsigned": {
			story{warningMsg("ignoring substitute for '" + aPath + "' from '" + cache + "', as it's not signed by any of the keys in 'trusted-public-keys'"), errorMsg(failed)},
			nixstore.ErrUntrusted,
			[]string{cache, aPath},
		},
		"2.34: unsigned": {
			story{warningMsg("ignoring substitute for '" + aPath + "' from '" + cache + "', as it's not signed by any of the keys in 'trusted-public-keys'"), errorMsg(required)},
			nixstore.ErrUntrusted,
			[]string{cache, aPath},
		},
		"an import without a signature": {
			append(asked(), errorMsg("cannot add path '"+aDep+"' because it lacks a signature by a trusted key")),
			nixstore.ErrUntrusted,
			[]string{cache, aDep},
		},
		"2.8: a signature that is none": {
			append(asked(), errorMsg("signature is not valid"), errorMsg(failed)),
			nixstore.ErrUntrusted,
			[]string{cache, aDep},
		},
	}
}

// contentCases are stories of caches that send something else.
func contentCases() map[string]classifyCase {
	return map[string]classifyCase{
		"2.8: altered content": {
			append(asked(), errorMsg("hash mismatch importing path '"+aDep+"';\n         specified: sha256:0dp\n         got:       sha256:136"), errorMsg(failed)),
			nixstore.ErrCorrupt,
			[]string{cache, aDep},
		},
		"2.26: content that is no archive": {
			append(asked(), errorMsg("bad archive: NAR directory is not sorted"), errorMsg(failed)),
			nixstore.ErrCorrupt,
			[]string{cache, aDep},
		},
		"2.8: truncated content": {
			append(asked(), errorMsg("NAR for '"+aDep+"' fetched from '"+cache+"' is incomplete"), errorMsg(failed)),
			nixstore.ErrCorrupt,
			[]string{cache, aDep},
		},
		"2.8: a narinfo that is none": {
			append(asked(), errorMsg("NAR info file 'icbwjcwyd1jdw3sk5npyvsba3qayyp8f.narinfo' is corrupt")),
			nixstore.ErrCorrupt,
			[]string{cache, aPath},
		},
		"2.34: a narinfo that is none": {
			append(asked(), errorMsg("NAR info file 'icbwjcwyd1jdw3sk5npyvsba3qayyp8f.narinfo' is corrupt: expecting ':' at line 1")),
			nixstore.ErrCorrupt,
			[]string{cache, aPath},
		},
	}
}

// cacheCases are stories of caches that cannot be had, or have nothing.
func cacheCases() map[string]classifyCase {
	return map[string]classifyCase{
		"2.8: a cache that stalls": {
			append(asked(), errorMsg("unable to download '"+nar+"': HTTP error 200 ('OK') (curl error: Timeout was reached)"), errorMsg(failed)),
			nixstore.ErrUnavailable,
			[]string{cache, aDep, "Timeout"},
		},
		"2.34: a cache with an error": {append(asked(), warningMsg("unable to download '"+nar+"': HTTP error 500; retrying in 336 ms (attempt 1/2)"),
			errorMsg("unable to download '"+nar+"': HTTP error 500\n\n response body:\n\n token=abc"), errorMsg(required)), nixstore.ErrUnavailable, []string{cache, aDep, "(HTTP error 500)"}},
		"2.8: nobody listens": {story{
			warningMsg("\x1b[31;1merror:\x1b[0m unable to download '" + cache + "/nix-cache-info': Couldn't connect to server (7); retrying in 340 ms"),
			warningMsg("unable to download '" + cache + "/nix-cache-info': Couldn't connect to server (7)"), errorMsg(failed),
		}, nixstore.ErrUnavailable, []string{cache, aPath, "Couldn't connect to server (7))"}},
		"2.8: a file is gone": {
			append(asked(), errorMsg("file 'nar/0dp.nar' does not exist in binary cache '"+cache+"'"), errorMsg(failed)),
			nixstore.ErrNotFound,
			[]string{cache, aDep},
		},
		"2.8: nobody has it":           {story{errorMsg(failed)}, nixstore.ErrNotFound, []string{aPath}},
		"2.34: nobody has it":          {story{errorMsg(required)}, nixstore.ErrNotFound, []string{aPath}},
		"2.34: nobody has a reference": {story{errorMsg("some references of path '" + aPath + "' could not be realised")}, nixstore.ErrNotFound, []string{aPath}},
	}
}

// buildCases are stories of derivations that are gone or fail.
func buildCases() map[string]classifyCase {
	return map[string]classifyCase{
		"2.8: the derivation is gone":  {story{errorMsg("cannot build missing derivation '" + aDrv + "'")}, nixstore.ErrNotFound, []string{aDrv}},
		"2.34: the derivation is gone": {story{errorMsg("failed to obtain derivation of '" + aDrv + "'")}, nixstore.ErrNotFound, []string{aDrv}},
		"2.8: a builder fails":         {story{starts(9, activityBuild, 0, aDrv), says(9, "line 4"), says(9, "line 5"), errorMsg("builder for '" + aDrv + "' failed with exit code 3;\n last 5 log lines:\n > line 4")}, nixstore.ErrBuild, []string{aDrv, "exit code 3", "line 4 | line 5"}},
		"2.34: a builder fails":        {story{starts(9, activityBuild, 0, aDrv), says(9, "line 5"), errorMsg("Cannot build '" + aDrv + "'.\n Reason: builder failed with exit code 3.\n Output paths:")}, nixstore.ErrBuild, []string{aDrv, "exit code 3", "line 5"}},
		"2.8: a builder makes nothing": {story{errorMsg("builder for '" + aDrv + "' failed to produce output path for output 'out' at '/var/lib/x.drv.chroot/nix'")}, nixstore.ErrBuild, []string{aDrv, "output 'out'"}},
		"2.8: silence":                 {story{errorMsg("building of '" + aDrv + "!out' from .drv file timed out after 2 seconds of silence")}, nixstore.ErrBuild, []string{aDrv, "timed out after 2 seconds of silence"}},
		"2.34: too long":               {story{starts(9, activityBuild, 0, aDrv), errorMsg("timed out after 4 seconds")}, nixstore.ErrBuild, []string{aDrv, "timed out after 4 seconds"}},
		"2.8: a fixed output differs":  {story{errorMsg("hash mismatch in fixed-output derivation '" + aDrv + "':\n specified: sha256-AAA=\n got: sha256-mOp=")}, nixstore.ErrBuild, []string{aDrv, "sha256-mOp="}},
		"2.8: another system":          {story{errorMsg("a 'mips64-linux' with features {} is required to build '" + aDrv + "', but I am a 'x86_64-linux' with features {kvm}")}, nixstore.ErrBuild, []string{aDrv}},
		"2.34: another system":         {story{errorMsg("Cannot build '" + aDrv + "'.\n Reason: platform mismatch\n Required system: 'mips64-linux'")}, nixstore.ErrBuild, []string{aDrv, "another system"}},
		"2.8: a dependency fails":      {story{errorMsg("builder for '" + aDrv + "' failed with exit code 1;"), errorMsg("1 dependencies of derivation '" + aPath + ".drv' failed to build")}, nixstore.ErrBuild, []string{aDrv}},
		"2.8: no sandbox":              {story{errorMsg("unable to start build process")}, nixstore.ErrBuild, []string{"refused", "CAP_SYS_ADMIN"}},
		"2.8: no build users":          {story{errorMsg("the build users group 'nixbld' has no members")}, nixstore.ErrBuild, []string{"refused"}},
	}
}

// nodeCases are stories of a node in trouble.
func nodeCases() map[string]classifyCase {
	return map[string]classifyCase{
		"the disk is full":               {story{errorMsg("writing to file: No space left on device"), errorMsg(failed)}, nixstore.ErrNoSpace, []string{"disk"}},
		"the database's disk is full":    {story{errorMsg("executing SQLite statement 'insert " + strings.Repeat("x", 2000) + "': database or disk is full")}, nixstore.ErrNoSpace, nil},
		"a builder fills the disk":       {story{errorMsg("builder for '" + aDrv + "' failed with exit code 1;\n last 1 log lines:\n > cp: write error: No space left on device")}, nixstore.ErrNoSpace, nil},
		"another Nix learns of a cache":  {story{errorMsg("executing SQLite statement 'insert or replace into NARs(cache, hashPart) values (1, '36az')': constraint failed")}, nixstore.ErrUnavailable, []string{"tries again"}},
		"the daemon goes":                {story{errorMsg("Nix daemon disconnected unexpectedly (maybe it crashed?)")}, nixstore.ErrUnavailable, []string{"daemon"}},
		"a cache's words look like ours": {story{errorMsg("unable to download '" + cache + "/x.narinfo': HTTP error 500\n response body:\n error: cannot add path '" + aPath + "' because it lacks a signature")}, nixstore.ErrUnavailable, []string{cache}},
	}
}

// The texts were recorded with real daemons: 2.8.0, 2.26.3 and 2.34.8.
func TestClassify(t *testing.T) {
	t.Parallel()
	for _, cases := range []map[string]classifyCase{signatureCases(), contentCases(), cacheCases(), buildCases(), nodeCases()} {
		for name, c := range cases {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c.check(t)
			})
		}
	}
}

func (c classifyCase) check(t *testing.T) {
	t.Helper()
	err := classify(nil, 1, c.log.told())
	if !errors.Is(err, c.kind) {
		t.Fatalf("the error is %v, want the kind %q", err, c.kind)
	}
	for _, want := range c.want {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the message %q does not name %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "token") || strings.Contains(err.Error(), "retrying in") || strings.Contains(err.Error(), "/var/lib") {
		t.Errorf("the message %q says too much", err)
	}
}

// The texts are those of 2.8.0.
func TestClassifyOutputsThatNixRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		message string
		want    []string // what the message names
	}{
		"no sandbox wanted":        {"derivation '" + aDrv + "' has '__noChroot' set, but that's not allowed when 'sandbox' is 'true'", []string{aDrv, "__noChroot"}},
		"files of the node wanted": {"derivation '" + aDrv + "' requested impure path '/etc', but it was not in allowed-impure-host-deps", []string{aDrv, "__impureHostDeps"}},
		"a cycle of outputs":       {"cycle detected in build of '" + aDrv + "' in the references of output 'dev' from output 'out'", []string{aDrv, "mend the package"}},
		"a forbidden reference":    {"output '" + aPath + "' is not allowed to refer to the following paths:\n " + aDep, []string{aPath, "mend the package"}},
		"a pipe is built":          {"file '/var/lib/closured" + aDrv + ".chroot" + aPath + "/x' has an unsupported type", []string{aDrv, "mend the package"}},
		"a folder for a file":      {"output path '/var/lib/closured" + aDrv + ".chroot" + aPath + "' should be a non-executable regular file", []string{aDrv}},
		"everybody may write":      {"suspicious ownership or permission on '/var/lib/closured" + aDrv + ".chroot" + aPath + "' for output 'out'; rejecting this build output", []string{aDrv}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := classify(nil, 1, story{errorMsg(c.message)}.told())
			if !errors.Is(err, nixstore.ErrBuild) || strings.Contains(err.Error(), "/var/lib") {
				t.Fatalf("the error is %v, want the kind %q without the node's folders", err, nixstore.ErrBuild)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the message %q does not name %q", err, want)
				}
			}
		})
	}
}

func TestOnlyAFetchThatAnotherDisturbsBeginsAnew(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]bool{
		"executing SQLite statement 'insert or replace into NARs(cache) values (1)': constraint failed": true,
		"executing SQLite statement 'insert into ValidPaths(path) values (1)': constraint failed":       false,
		"unable to download 'http://a': executing SQLite statement 'insert or replace into NARs'":       false,
	} {
		told := story{errorMsg(message)}.told()
		if got := told.raced(); got != want {
			t.Errorf("%s: begins anew: %t, want %t", message, got, want)
		}
	}
}

func TestClassifyKeepsWhatNoRuleKnows(t *testing.T) {
	t.Parallel()
	err := classify(nil, 1, story{errorMsg("the moon is full")}.told())
	var failure *nixstore.Failure
	if err == nil || errors.As(err, &failure) || !strings.Contains(err.Error(), "the moon is full") {
		t.Errorf("the error is %v, want a plain one with Nix's words", err)
	}
	if err := classify(nil, 0, story{errorMsg("x")}.told()); err != nil {
		t.Errorf("success gave %v", err)
	}
}

func TestFault47CredentialsAreRedacted(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"unable to download 'https://me:canary@cache.example/x?token=canary#canary': no": "unable to download 'https://cache.example/x': no",
		"see s3://canary@bucket?secret=canary.":                                          "see s3://bucket.",
		"plain words, and http://a.example/b, too":                                       "plain words, and http://a.example/b, too",
		"http://a:b:canary@[::1/":                                                        "http://(unreadable)",
		"\x1b[31mred\x1b[0m\nand\x07 bell":                                               "red and bell",
	} {
		if got := redact(text); got != want {
			t.Errorf("redact(%q) = %q, want %q", text, got, want)
		}
	}
}

// FuzzAccount: whatever Nix, a builder or a cache writes, memory is bounded, no
// line makes a panic, and every end is an error.
func FuzzAccount(f *testing.F) {
	f.Add([]byte(errorMsg("builder for '" + aDrv + "' failed with exit code 3;")))
	f.Add([]byte(starts(1, activityBuild, 0, aDrv)))
	f.Add([]byte(says(1, "x") + "\nnoise\n@nix {"))
	f.Add([]byte(`@nix {"action":"result","fields":[1,2,"x",[]],"id":3,"type":105}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		told := &account{progress: newProgressMeter(func(nixstore.Progress) {})}
		lines := &lineWriter{emit: told.take}
		for range 100 {
			_, _ = lines.Write(data)
		}
		lines.flush()
		if classify(nil, 1, told) == nil {
			t.Error("a failure became a success")
		}
		if len(told.errors) > messagesMax || len(told.warnings) > messagesMax || len(told.builds) > buildsMax || len(told.origins) > originsMax {
			t.Error("the account grows without bound")
		}
	})
}
