package nixcli

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/closured/closured/nixstore"
)

// classify turns the end of a nix-store into an error of the vocabulary. Behind
// a daemon the exit code is 1 for everything (100 and 101 are given only without
// one), so that the messages decide. Only their beginnings are looked at: what
// follows may be the words of a builder or of a cache.
//
// The error is not one of the vocabulary when no rule knows the messages.
func classify(outputs []nixstore.Output, exit int, told *account) error {
	if exit == 0 {
		return nil
	}
	for _, pass := range [][]rule{spaceRules(), errorRules()} {
		if failure := firstMatch(pass, told.errors, told); failure != nil {
			return failure
		}
	}
	if failure := firstMatch(warningRules(), told.warnings, told); failure != nil {
		return failure
	}
	if failure := firstMatch(absentRules(), told.errors, told); failure != nil {
		return failure
	}
	messages := append([]string{}, told.errors...)
	if len(messages) == 0 {
		messages = append(messages, "it said nothing")
	}
	what := "an expression"
	if len(outputs) > 0 {
		what = outputs[0].Path.String()
	}
	return fmt.Errorf("nix ended with status %d for %s: %w", exit, what, errors.New(cut(strings.Join(messages, "; "), maxMessage)))
}

// rule makes a failure of the messages that its pattern matches.
type rule struct {
	pattern string // a regular expression, matched at the beginning of a message
	failure func(m []string, told *account) *nixstore.Failure
}

// firstMatch applies the rules to each message in turn: the first error is the
// cause, those that follow say what it entails.
func firstMatch(rules []rule, messages []string, told *account) error {
	patterns := make([]*regexp.Regexp, len(rules))
	for i, r := range rules {
		patterns[i] = regexp.MustCompile(`^(?:` + r.pattern + `)`)
	}
	for _, message := range messages {
		for i, r := range rules {
			if m := patterns[i].FindStringSubmatch(message); m != nil {
				return r.failure(m, told)
			}
		}
	}
	return nil
}

// full is how the system, SQLite and quotas say that a disk is full.
const full = `(?:No space left on device|database or disk is full|Disk quota exceeded)`

// spaceRules go first: a full disk makes many other errors.
func spaceRules() []rule {
	noSpace := func([]string, *account) *nixstore.Failure {
		return nixstore.Fail(nixstore.ErrNoSpace, "free space or inodes on it, or give it more; the agent tries again by itself",
			"the disk of this node's store is full")
	}
	return []rule{
		{`(?:builder for|Cannot build|build of) '[^']*'.* ` + `> .*` + full, noSpace}, // a builder's log
		{`.*: ` + full, noSpace},
		{full, noSpace},
	}
}

// errorRules know the causes.
func errorRules() []rule {
	return append(append(buildRules(), contentRules()...), reachRules()...)
}

// sandboxWords are the steps of a sandbox that a container without privilege is
// refused (libstore/build/local-derivation-goal.cc of 2.8, linux builder of 2.34).
const sandboxWords = `(?:cloning builder process|this system does not support the kernel namespaces|` +
	`unable to start build process|unable to enter|setting up a private mount namespace|unable to make '/' private|` +
	`unable to (?:bind )?mount|mounting |cannot pivot|setting up the build environment|unshar(?:e|ing)|writing (?:to )?file ['"]/proc/[^'"]*/[ug]id_map|` +
	`creating (?:mount|user) namespace|setns|the group '[^']*' specified in 'build-users-group'|the build users group|getting (?:UID|GID) |cannot change ownership)`

func buildRules() []rule {
	const drv = `'(/nix/store/[^'!^]*)[^']*'`
	refused := func(m []string, _ *account) *nixstore.Failure {
		return refuse(m[0])
	}
	return []rule{
		{sandboxWords + `.*`, refused},
		{`while setting up the build environment.*`, refused},
		{`builder for ` + drv + ` (failed with exit code \d+|failed due to signal \d+[^;]*|failed to produce output path for output '[^']*'|failed[^;:]*)`, builderFailed},
		{`Cannot build ` + drv + `\. +Reason: (platform mismatch|missing system features)`, cannotBuildHere},
		{`Cannot build ` + drv + `\. +Reason: (?:builder )?(.*?)\. `, builderFailed},
		{`(?:building of ` + drv + ` from \.drv file )?(timed out after \d+ seconds(?: of silence)?)`, timedOut},
		{`hash mismatch in fixed-output derivation ` + drv + `: +(specified: \S+ +got: +\S+)`, fixedOutput},
		{`a '[^']*' with features \{[^}]*\} is required to build ` + drv + `(.*)`, cannotBuildHere},
		{`derivation ` + drv + ` has '__noChroot' set`, asksForTheNode},
		{`derivation ` + drv + ` requested impure path`, asksForTheNode},
		{`cycle detected in build of ` + drv, wrongOutput},
		{`output '(/nix/store/[^']*)' is not allowed to refer to`, wrongOutput},
		// A path below the build's own root, which the message must not tell.
		{`(?:file|output path|suspicious ownership or permission on) '[^']*(/nix/store/[^'/]*\.drv)\.chroot/[^']*'`, wrongOutput},
		{`(?:cannot build missing derivation|failed to obtain derivation of|don't know how to build[^']*) ` + drv, derivationGone},
	}
}

func builderFailed(m []string, told *account) *nixstore.Failure {
	f := nixstore.Fail(nixstore.ErrBuild, "mend the package, its log ends as follows", "the builder of %s %s", m[1], m[2])
	f.Log = told.buildLog(m[1])
	return f
}

func timedOut(m []string, told *account) *nixstore.Failure {
	drv := m[1]
	if drv == "" { // 2.34 does not say which
		drv = told.lastBuild()
	}
	f := nixstore.Fail(nixstore.ErrBuild, "mend the package, or let builds take longer (Nix options timeout and max-silent-time)",
		"the build of %s %s", drv, m[2])
	f.Log = told.buildLog(drv)
	return f
}

func fixedOutput(m []string, _ *account) *nixstore.Failure {
	return nixstore.Fail(nixstore.ErrBuild, "mend the hash in the package",
		"what %s fetched does not have the hash that the package says (%s)", m[1], strings.Join(strings.Fields(m[2]), " "))
}

func cannotBuildHere(m []string, _ *account) *nixstore.Failure {
	return nixstore.Fail(nixstore.ErrBuild, "build it elsewhere and push it to a binary cache",
		"%s is for another system or needs features that this node lacks", m[1])
}

func asksForTheNode(m []string, _ *account) *nixstore.Failure {
	return nixstore.Fail(nixstore.ErrBuild, "remove __noChroot and __impureHostDeps from the package",
		"%s asks for more of the node than a sandbox shows", m[1])
}

func wrongOutput(m []string, _ *account) *nixstore.Failure {
	return nixstore.Fail(nixstore.ErrBuild, "mend the package: it may make files, folders and links, and refer to what it allows",
		"what was built for %s cannot be in a store", m[1])
}

func derivationGone(m []string, _ *account) *nixstore.Failure {
	return nixstore.Fail(nixstore.ErrNotFound, "ask again, so that it is evaluated again", "the derivation %s is not in this node's store", m[1])
}

// refuse says that Nix did not build since it had no sandbox.
func refuse(why string) *nixstore.Failure {
	f := nixstore.Fail(nixstore.ErrBuild,
		"give the Nix daemon's container privilege (CAP_SYS_ADMIN and user namespaces), or push the path to a binary cache",
		"the build is refused, because it cannot be sandboxed on this node")
	f.Log = []string{why}
	return f
}

// contentRules know what is wrong with what a cache sent.
func contentRules() []rule {
	const path = `'(/nix/store/[^']*)'`
	corrupt := func(m []string, told *account) *nixstore.Failure {
		o := told.origin(strings.Join(m[1:], ""))
		return nixstore.Fail(nixstore.ErrCorrupt, "repair it in that cache; nothing was kept",
			"%s sent altered or cut content for %s", o.cache, o.path)
	}
	return []rule{
		{`(?:hash|size|ca hash) mismatch importing path ` + path, corrupt},
		{`NAR for ` + path + ` fetched from '[^']*' is incomplete`, corrupt},
		{`NAR info file '([^']*)'.* is corrupt`, corrupt},
		{`bad archive|input compressed data|failed to (?:read compressed|decompress)|.*(?:decompress|compressed data|unexpected end-of-file|Truncated|Lzma library error|Zstd)`, corrupt},
		{`cannot add path ` + path + ` because it lacks a`, untrusted},
		{`()signature is not valid`, untrusted}, // one that is not even a signature (libutil or libstore/crypto.cc)
	}
}

func untrusted(m []string, told *account) *nixstore.Failure {
	o := told.origin(m[1])
	if len(m) > 2 { // the message names the cache
		o.cache = m[2]
	}
	return nixstore.Fail(nixstore.ErrUntrusted, "sign it, or trust the cache's key (--trusted-public-key)",
		"%s offers %s, which no trusted key has signed", o.cache, o.path)
}

// reachRules know what cannot be reached.
func reachRules() []rule {
	daemon := func([]string, *account) *nixstore.Failure {
		return nixstore.Fail(nixstore.ErrUnavailable, "look at the daemon's log; the agent tries again by itself", "the Nix daemon went away")
	}
	raced := func([]string, *account) *nixstore.Failure {
		return nixstore.Fail(nixstore.ErrUnavailable, "wait, the agent tries again by itself",
			"several fetches from a new binary cache disturb each other in Nix's memory of it")
	}
	return []rule{
		{racedPattern, raced},
		{unreachablePattern, unreachable},
		{`file '[^']*' does not exist in binary cache '([^']*)'`, lacksFile},
		{`Nix daemon disconnected unexpectedly|cannot (?:connect to|open connection to|create)|.*(?:Connection reset by peer|Connection refused|Broken pipe)`, daemon},
	}
}

// racedPattern is what a Nix says that cannot write down what it has learned of a
// cache, since another one does the same (NarInfoDiskCache; seen with 2.8).
const racedPattern = `(?:error: )?executing SQLite statement 'insert or replace into (?:NARs|BinaryCaches|LastPurge)\b`

// raced tells whether another Nix disturbed this one, which then does well when it
// begins anew.
func (a *account) raced() bool {
	return slices.ContainsFunc(a.errors, regexp.MustCompile(`^`+racedPattern).MatchString)
}

const unreachablePattern = `(?:error: )?unable to (?:download|query) '([^']*)': *(.*)`

// unreachable names the cache, the path and the reason. Its text stays the same
// from try to try: events that differ are not merged.
func unreachable(m []string, told *account) *nixstore.Failure {
	o := told.origin(m[1])
	if host := serverOf(m[1]); host != "" && !strings.HasPrefix(m[1], o.cache) {
		o.cache = host
	}
	reason, _, _ := strings.Cut(m[2], " response body:") // the cache's own words
	reason, _, _ = strings.Cut(reason, "; retrying in")
	return nixstore.Fail(nixstore.ErrUnavailable, "look at that cache or the way to it; the agent tries again by itself",
		"%s does not serve %s (%s)", o.cache, o.path, strings.TrimSpace(reason))
}

// serverOf gives scheme and host of an address.
func serverOf(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

func lacksFile(m []string, told *account) *nixstore.Failure {
	return nixstore.Fail(nixstore.ErrNotFound, "push it there again",
		"%s offers %s but lacks its content", m[1], told.origin("").path)
}

// warningRules know why a cache that has a path was left out. They decide when
// the error is only that nobody has it.
func warningRules() []rule {
	return []rule{
		{`(?:the substitute for|ignoring substitute for) '([^']*)' from '([^']*)',?(?: as it's| is) not signed`, untrusted},
		{`file '[^']*' does not exist in binary cache '([^']*)'`, lacksFile},
		{unreachablePattern, unreachable},
	}
}

// absentRules know that nobody has a path.
func absentRules() []rule {
	absent := func(m []string, _ *account) *nixstore.Failure {
		return nixstore.Fail(nixstore.ErrNotFound, "push it to a cache of this node, or name a source that can be built here",
			"no binary cache of this node offers %s or all that it refers to", m[1])
	}
	const path = `'(/nix/store/[^']*)'`
	return []rule{
		{`build of ` + path, absent},
		{`path ` + path + ` (?:is required, but|does not exist|is not valid)`, absent},
		{`some references of path ` + path, absent},
	}
}
