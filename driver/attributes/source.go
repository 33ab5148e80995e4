package attributes

import (
	"errors"
	"slices"
	"strings"

	"github.com/closured/closured/nixstore"
)

// white is the white space that separates the words of a list. It is ASCII only:
// other kinds look like a space and are a typing error in a store path.
const white = " \t\r\n"

// source reads the one source of the volume. Each key is checked, also those for
// other systems: a mistake shall be seen on the first node, not on the other kind.
func (p *parser) source() {
	kinds, named := p.kinds()
	switch {
	case len(kinds) == 0:
		p.fail("set storePath, packages, flakeRef, nixExpr or image", "the volume names no source")
		return
	case len(kinds) > 1:
		p.fail("keep one of them", "the volume names %d sources, %s", len(kinds), strings.Join(named, " and "))
	}
	p.out.Source = nixstore.Source{Kind: kinds[0]}
	for _, kind := range kinds {
		p.sourceOf(kind)
	}
}

// kinds gives the kinds of source that the volume names, and their keys.
func (p *parser) kinds() ([]nixstore.SourceKind, []string) {
	var kinds []nixstore.SourceKind
	var named []string
	for _, key := range p.known {
		kind, isSource := kindOf(key, p.system)
		if _, set := p.context[key]; !set || !isSource {
			continue
		}
		if !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
			named = append(named, key)
		}
	}
	return kinds, named
}

// kindOf gives the kind of source that a key sets; false for other keys. The
// system keys are store paths, so they may stand beside storePath.
func kindOf(key, system string) (nixstore.SourceKind, bool) {
	switch key {
	case KeyStorePath, KeyX86, KeyARM, system:
		return nixstore.SourceStorePath, true
	case KeyPackages:
		return nixstore.SourcePackages, true
	case KeyFlakeRef:
		return nixstore.SourceFlake, true
	case KeyNixExpr:
		return nixstore.SourceExpr, true
	case KeyImage:
		return nixstore.SourceImage, true
	}
	return "", false
}

func (p *parser) sourceOf(kind nixstore.SourceKind) {
	switch kind {
	case nixstore.SourceStorePath:
		p.storePaths()
	case nixstore.SourcePackages:
		p.packages()
	case nixstore.SourceFlake:
		p.flake()
	case nixstore.SourceExpr:
		p.expression()
	case nixstore.SourceImage:
		p.image()
	}
}

// storePaths takes the key of this node's system, else storePath.
func (p *parser) storePaths() {
	var others []string
	taken := ""
	for _, key := range p.known {
		if kind, _ := kindOf(key, p.system); kind != nixstore.SourceStorePath {
			continue
		}
		if _, set := p.context[key]; !set {
			continue
		}
		paths := p.pathList(key)
		switch {
		case key == p.system, key == KeyStorePath && taken == "":
			p.out.Source.Paths, taken = paths, key
		case key != KeyStorePath:
			others = append(others, key)
		}
	}
	if taken == "" {
		p.fail("add the attribute "+nixstore.Quote(p.system)+" or storePath, or keep the pod on other nodes with a nodeSelector on kubernetes.io/arch",
			"the volume has store paths for %s only, and this node is %s", strings.Join(others, ", "), p.system)
	}
}

// pathList reads a list of store paths, without doubles, in the user's order.
func (p *parser) pathList(key string) []nixstore.StorePath {
	var paths []nixstore.StorePath
	for _, word := range p.words(key, white) {
		path, err := nixstore.ParseStorePath(word)
		switch {
		case err != nil:
			p.problem(key, err)
		case path.IsDerivation():
			// nix-store --realise would build it, whatever the policy says of builds.
			p.fail("name what it builds, as nix-store --query --outputs tells",
				"the attribute %s names the derivation %s", key, nixstore.Quote(word))
		case !slices.Contains(paths, path):
			paths = append(paths, path)
		}
	}
	return paths
}

func (p *parser) packages() {
	var names []string
	for _, word := range p.words(KeyPackages, white+",") {
		if problem := packageProblem(word); problem != "" {
			p.fail("write attribute names such as curl or python3Packages.numpy",
				"%s is not a package: %s", nixstore.Quote(word), problem)
			continue
		}
		if !slices.Contains(names, word) {
			names = append(names, word)
		}
	}
	p.out.Source.Packages = names
}

func (p *parser) flake() {
	value, ok := p.value(KeyFlakeRef)
	if !ok {
		return
	}
	ref := strings.Trim(value, white)
	if problem := flakeProblem(ref); problem != "" {
		p.fail("write it as github:owner/repository#package",
			"flakeRef %s is not a flake reference: %s", nixstore.Quote(ref), problem)
		return
	}
	p.out.Source.Flake = ref
}

func (p *parser) expression() {
	value, ok := p.value(KeyNixExpr)
	if !ok {
		return
	}
	switch trimmed := strings.TrimSpace(value); {
	case trimmed == "":
		p.fail("write an expression that gives a derivation", "the attribute nixExpr is empty")
	case trimmed[0] == '-':
		// No derivation begins so, but an option does.
		p.fail("write an expression that gives a derivation", "nixExpr %s begins with a dash", nixstore.Quote(trimmed))
	default:
		p.out.Source.Expr = value
	}
}

func (p *parser) image() {
	value, ok := p.value(KeyImage)
	if !ok {
		return
	}
	name := strings.Trim(value, white)
	switch {
	case !isSubdomain(name):
		p.fail("write the metadata.name of a NixImage in the pod's namespace",
			"image %s is not the name of a NixImage", nixstore.Quote(name))
	case p.out.Pod.Namespace == "":
		p.fail("set podInfoOnMount: true in the CSIDriver object",
			"the image %s lives in the pod's namespace, and the call does not say which that is", nixstore.Quote(name))
	default:
		p.out.Source.Image = p.out.Pod.Namespace + "/" + name
	}
}

// words splits the list of key, and checks what holds for each list.
func (p *parser) words(key, separators string) []string {
	value, ok := p.value(key)
	if !ok {
		return nil
	}
	words := strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(separators, r) })
	if len(words) == 0 {
		p.fail("name at least one, or remove it", "the attribute %s is empty", key)
	}
	if len(words) > MaxRoots {
		p.fail("join them in one package of the package set", "the attribute %s names %d things, more than %d", key, len(words), MaxRoots)
		return nil
	}
	return words
}

// problem adds what a parser of nixstore said of one word of key's list.
func (p *parser) problem(key string, err error) {
	if f, ok := errors.AsType[*nixstore.Failure](err); ok {
		p.fail(f.Next, "%s: %s", key, f.Cause)
		return
	}
	p.fail("", "%s: %s", key, err)
}
