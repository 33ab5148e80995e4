package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/closured/closured/tests/agent"
)

// useImage pulls the closure of the volume as an image, as a container runtime
// does, and serves redis out of it.
func useImage(ctx context.Context, a *agent.Agent, packages string) error {
	names := strings.Join(strings.Fields(packages), "/")
	heading(fmt.Sprintf("The same as an image: nix.internal/pkgs/%s", names))
	ref, err := name.ParseReference(a.Registry()+"/pkgs/"+names, name.Insecure)
	if err != nil {
		return err
	}
	begin := time.Now()
	image, err := remote.Image(ref, remote.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("pulling the manifest: %w\nthe agent's log:\n%s", err, a.Log())
	}
	line("manifest", "after %s, with the digests of all layers computed from the store", since(begin))
	if err := describeImage(image); err != nil {
		return err
	}
	begin = time.Now()
	p := pod{filepath.Join(a.Dir(), "image")}
	if err := unpack(ctx, image, p.root); err != nil {
		return err
	}
	line("pulled", "and unpacked in %s", since(begin))
	if err := p.list(); err != nil {
		return err
	}
	return p.serve(ctx)
}

func describeImage(image v1.Image) error {
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	var bytes int64
	for _, layer := range layers {
		size, err := layer.Size()
		if err != nil {
			return err
		}
		bytes += size
	}
	line("digest", "%s", digest)
	line("layers", "%d, %.1f MiB", len(layers), float64(bytes)/(1<<20))
	return nil
}

// unpack writes all layers of an image, one over the other, to a new folder.
// mutate.Extract checks the digest of each.
func unpack(ctx context.Context, image v1.Image, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	files := mutate.Extract(image)
	tar := exec.CommandContext(ctx, "tar", "-x", "-p", "-C", dir)
	tar.Stdin = files
	out, err := tar.CombinedOutput()
	if err = errors.Join(err, files.Close()); err != nil {
		return fmt.Errorf("unpacking the image: %w: %s", err, out)
	}
	return nil
}
