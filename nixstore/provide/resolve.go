package provide

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/closured/closured/nixstore"
)

// resolve gives what a source stands for, and refuses what this node cannot serve.
func (p *Provider) resolve(ctx context.Context, src nixstore.Source) (nixstore.Source, error) {
	if src.Kind == nixstore.SourceImage {
		if p.cfg.Images == nil {
			return src, nixstore.Fail(nixstore.ErrInvalid, "use storePath or packages",
				"this agent knows no images, so not %s either", nixstore.Quote(src.Image))
		}
		resolved, err := p.cfg.Images(ctx, src.Image)
		if err != nil {
			return src, err
		}
		if resolved.Kind == nixstore.SourceImage {
			return src, nixstore.Fail(nixstore.ErrInvalid, "name its source instead",
				"the image %s stands for another image", nixstore.Quote(src.Image))
		}
		src = resolved
	}
	return src, p.check(src)
}

func (p *Provider) check(src nixstore.Source) error {
	var empty bool
	switch src.Kind {
	case nixstore.SourceStorePath:
		empty = len(src.Paths) == 0 || slices.ContainsFunc(src.Paths, nixstore.StorePath.IsZero)
	case nixstore.SourcePackages:
		empty = len(src.Packages) == 0
	case nixstore.SourceFlake:
		empty = src.Flake == ""
	case nixstore.SourceExpr:
		empty = src.Expr == ""
	default:
		return nixstore.Fail(nixstore.ErrInvalid, "", "%s is no kind of source", nixstore.Quote(string(src.Kind)))
	}
	if empty {
		return nixstore.Fail(nixstore.ErrInvalid, "name something in it", "the source %s is empty", src.Kind)
	}
	if src.Kind != nixstore.SourceStorePath && p.cfg.Evaluator == nil {
		return nixstore.Fail(nixstore.ErrInvalid, "use storePath, or give the agent a package set",
			"this agent evaluates nothing, so not %s either", src.Kind)
	}
	return nil
}

// shortMax bounds what a store path takes of a message, in bytes: cause and next
// step must fit in the first 200 characters.
const shortMax = 70

// short names a source in a message: recognisable, one line, without what may be
// a credential, and always the same for the same source.
func short(src nixstore.Source) string {
	switch src.Kind {
	case nixstore.SourceStorePath:
		if len(src.Paths) == 0 {
			break
		}
		text := src.Paths[0].BaseName()
		if len(text) > shortMax {
			text = text[:shortMax] + "…"
		}
		if more := len(src.Paths) - 1; more > 0 {
			text += " and " + strconv.Itoa(more) + " more"
		}
		return text
	case nixstore.SourcePackages:
		return "packages " + nixstore.Quote(strings.Join(src.Packages, " "))
	case nixstore.SourceFlake:
		return "flake " + nixstore.Quote(withoutSecrets(src.Flake))
	case nixstore.SourceExpr:
		// An expression may hold anything; its size tells it from others well enough.
		return "the expression of " + strconv.Itoa(len(src.Expr)) + " bytes"
	case nixstore.SourceImage:
		return "image " + nixstore.Quote(src.Image)
	}
	return "the source"
}

// withoutSecrets removes the user and the query of a flake reference, where
// tokens travel.
func withoutSecrets(ref string) string {
	ref, attribute, found := strings.Cut(ref, "#")
	ref, _, _ = strings.Cut(ref, "?")
	if scheme, rest, ok := strings.Cut(ref, "://"); ok {
		host, path, slash := strings.Cut(rest, "/")
		if at := strings.LastIndexByte(host, '@'); at >= 0 {
			host = host[at+1:]
		}
		ref = scheme + "://" + host
		if slash {
			ref += "/" + path
		}
	}
	if found {
		ref += "#" + attribute
	}
	return ref
}
