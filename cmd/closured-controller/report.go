package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/closured/closured/controller/buildjob"
	"github.com/closured/closured/controller/report"
	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry/closureimage"
)

// reporter is one run of the report command.
type reporter struct {
	nix         string // the volume
	cache       string // where digests may be written
	message     string // kubelet's file of the termination message
	node        string
	system      string
	compression closureimage.Compression
	config      closureimage.Settings
}

// reportCommand tells what the pod's volume holds. It gives the exit code.
func reportCommand(ctx context.Context, args []string) int {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	r, err := parseReport(args, os.Getenv("NODE_NAME"), os.Stderr)
	if err != nil {
		log.Error("the flags of the report are wrong", slog.String(logkey.Error, err.Error()))
		return exitUsage
	}
	found, err := r.find(ctx)
	if err != nil {
		log.Error("no report", slog.String(logkey.Error, err.Error()))
		found = report.Report{Failure: err.Error()}
	}
	if err := r.write(found); err != nil {
		log.Error("writing the report", slog.String(logkey.Error, err.Error()))
		return exitFailure
	}
	if found.Failure != "" {
		return exitFailure
	}
	log.Info("reported", slog.String(logkey.Root, found.Root.String()), slog.String("digest", found.Digest))
	return 0
}

func parseReport(args []string, node string, out io.Writer) (*reporter, error) {
	r := &reporter{node: node}
	f := flag.NewFlagSet("closured-controller "+buildjob.Command, flag.ContinueOnError)
	f.SetOutput(out)
	f.StringVar(&r.nix, "volume", "/nix", "where the volume is mounted")
	f.StringVar(&r.cache, buildjob.FlagCache, "", "folder for digests; required")
	f.StringVar(&r.message, "message", "/dev/termination-log", "file of the termination message")
	f.StringVar(&r.system, buildjob.FlagSystem, "", "the Nix system that the volume must be of; required")
	f.TextVar(&r.compression, buildjob.FlagCompression, closureimage.None, "none, gzip or zstd")
	for name, list := range map[string]*[]string{
		buildjob.FlagEntrypoint: &r.config.Entrypoint, buildjob.FlagCmd: &r.config.Cmd,
		buildjob.FlagEnv: &r.config.Env, buildjob.FlagPort: &r.config.ExposedPorts,
	} {
		f.Func(name, "one element of the image's configuration; repeatable", func(v string) error {
			*list = append(*list, v)
			return nil
		})
	}
	f.Func(buildjob.FlagLabel, "a label of the image, as key=value; repeatable", r.label)
	f.StringVar(&r.config.User, buildjob.FlagUser, "", "user of the image's configuration")
	f.StringVar(&r.config.WorkingDir, buildjob.FlagWorkingDir, "", "working directory of the image's configuration")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if r.system == "" || r.cache == "" || f.NArg() > 0 {
		return nil, errors.New("--system and --cache-dir are required, and nothing else but flags")
	}
	return r, nil
}

func (r *reporter) label(v string) error {
	escaped, value, ok := strings.Cut(v, "=")
	key, err := url.QueryUnescape(escaped)
	if !ok || err != nil {
		return errors.New("write it as key=value")
	}
	if r.config.Labels == nil {
		r.config.Labels = map[string]string{}
	}
	r.config.Labels[key] = value
	return nil
}

// find reads the volume and computes the digest of its image.
func (r *reporter) find(ctx context.Context) (report.Report, error) {
	volume, err := report.Open(filepath.Join(r.nix, "var", "closure.json"))
	if err != nil {
		return report.Report{}, err
	}
	if volume.System != r.system {
		return report.Report{}, nixstore.Fail(nixstore.ErrInvalid, "look at the labels kubernetes.io/arch of the nodes", "the volume is of %s instead of %s", volume.System, r.system)
	}
	builder, err := closureimage.New(closureimage.Config{
		StoreDir: filepath.Join(r.nix, "store"), CacheDir: r.cache, Closures: volume.Reader(), Compression: r.compression,
	})
	if err != nil {
		return report.Report{}, err
	}
	image, err := builder.Image(ctx, closureimage.Spec{Root: volume.Closure.Root, System: r.system, Settings: r.config})
	if err != nil {
		return report.Report{}, fmt.Errorf("computing the image's digest: %w", err)
	}
	return report.Report{
		Root: volume.Closure.Root, System: r.system, Digest: image.Digest().String(), ManifestSize: int64(len(image.Manifest())),
		Size: volume.Closure.NarSize(), Paths: len(volume.Closure.Paths), Node: r.node,
	}, nil
}

// write fills kubelet's file, which is there already, and mounted: it cannot be renamed.
func (r *reporter) write(found report.Report) error {
	data, err := found.Encode()
	if err != nil {
		return err
	}
	return os.WriteFile(r.message, data, 0o600)
}
