package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
)

// client pulls one image over one connection.
type client struct {
	base string // URL of the repository
	http http.Client
}

// do sends a request; the caller reads and closes the body.
func (c *client) do(ctx context.Context, method, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	if c.http.Transport == nil {
		c.http.Transport = &http.Transport{}
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		return nil, errors.Join(fmt.Errorf("%s %s: %s: %s", method, url, res.Status, body), res.Body.Close())
	}
	return res, nil
}

// ping opens the connection.
func (c *client) ping(ctx context.Context) error {
	base, _, _ := strings.Cut(c.base, "/store/")
	res, err := c.do(ctx, http.MethodGet, base+"/")
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return errors.Join(err, res.Body.Close())
}

func (c *client) manifest(ctx context.Context) (*v1.Manifest, error) {
	body, err := c.get(ctx)
	if err != nil {
		return nil, err
	}
	return v1.ParseManifest(bytes.NewReader(body))
}

// get gives the bytes of the manifest.
func (c *client) get(ctx context.Context) ([]byte, error) {
	res, err := c.do(ctx, http.MethodGet, c.base+"/manifests/latest")
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(res.Body)
	return body, errors.Join(err, res.Body.Close())
}

func (c *client) head(ctx context.Context) error {
	res, err := c.do(ctx, http.MethodHead, c.base+"/manifests/latest")
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// layer copies one layer, whose digest must be right.
func (c *client) layer(ctx context.Context, to io.Writer, d v1.Descriptor) error {
	res, err := c.do(ctx, http.MethodGet, c.base+"/blobs/"+d.Digest.String())
	if err != nil {
		return err
	}
	sum := sha256.New()
	_, err = io.CopyBuffer(io.MultiWriter(sum, to), struct{ io.Reader }{res.Body}, make([]byte, 256<<10))
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return err
	}
	if got := fmt.Sprintf("%x", sum.Sum(nil)); got != d.Digest.Hex {
		return fmt.Errorf("the layer %s has the digest %s", d.Digest, got)
	}
	return nil
}

// layers reads layers one after the other.
func (c *client) layers(ctx context.Context, layers []v1.Descriptor) error {
	for _, d := range layers {
		if err := c.layer(ctx, io.Discard, d); err != nil {
			return err
		}
	}
	return nil
}

// unpack writes the image to a new folder, each layer over those before.
func (c *client) unpack(ctx context.Context, dir string) error {
	m, err := c.manifest(ctx)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, d := range m.Layers {
		tar := exec.CommandContext(ctx, "tar", "-x", "-p", "-C", dir)
		in, err := tar.StdinPipe()
		if err != nil {
			return err
		}
		if err := tar.Start(); err != nil {
			return err
		}
		err = c.layer(ctx, in, d)
		if err = errors.Join(err, in.Close(), tar.Wait()); err != nil {
			return fmt.Errorf("unpacking: %w", err)
		}
	}
	return nil
}

// filesOf gives the regular files below paths, the largest first, and their bytes.
func filesOf(paths []string) (names []string, total int64, err error) {
	sizes := map[string]int64{}
	for _, path := range paths {
		err := filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			info, err := entry.Info()
			if err == nil {
				names, sizes[name] = append(names, name), info.Size()
				total += info.Size()
			}
			return err
		})
		if err != nil {
			return nil, 0, err
		}
	}
	slices.SortFunc(names, func(p, q string) int { return int(sizes[q] - sizes[p]) })
	return names, total, nil
}

// hashAll computes the SHA-256 of each file, on all cores: what an unknown image
// costs at least.
func hashAll(ctx context.Context, names []string) error {
	var next atomic.Int64
	var workers errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() error {
			buffer := make([]byte, 256<<10)
			for i := next.Add(1) - 1; i < int64(len(names)) && ctx.Err() == nil; i = next.Add(1) - 1 {
				if err := hashFile(names[i], buffer); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	return workers.Wait()
}

func hashFile(name string, buffer []byte) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(sha256.New(), struct{ io.Reader }{file}, buffer)
	return errors.Join(err, file.Close())
}

// tarToSum is tar of paths, piped to sha256sum.
func tarToSum(ctx context.Context, paths []string) error {
	tar := exec.CommandContext(ctx, "tar", append([]string{"-c", "-P"}, paths...)...)
	sum := exec.CommandContext(ctx, "sha256sum")
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	tar.Stdout, sum.Stdin = w, r
	err = errors.Join(tar.Start(), sum.Start(), r.Close(), w.Close())
	if err != nil {
		return err
	}
	return errors.Join(tar.Wait(), sum.Wait())
}
