package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// image writes an OCI image archive with one layer, for `ctr images import`. The
// layer is made in memory.
func image(out, name string, specs []string) error {
	var data bytes.Buffer
	l := layer{tar: tar.NewWriter(&data), dirs: map[string]bool{}}
	for _, spec := range specs {
		if err := l.add(spec); err != nil {
			return fmt.Errorf("packing %q: %w", spec, err)
		}
	}
	if err := l.tar.Close(); err != nil {
		return err
	}
	blobs, err := archive(name, l.entrypoint, data.Bytes())
	if err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	for _, n := range slices.Sorted(maps.Keys(blobs)) {
		header := tar.Header{Typeflag: tar.TypeReg, Name: n, Mode: 0o644, Size: int64(len(blobs[n])), ModTime: time.Unix(0, 0)}
		if err := writeFile(w, header, blobs[n]); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(w.Close(), f.Close())
}

// layer is the one layer of an image in the making.
type layer struct {
	tar        *tar.Writer
	dirs       map[string]bool // made so far
	entrypoint []string
}

// add does what one argument says; see the program's comment.
func (l *layer) add(spec string) error {
	if word, ok := strings.CutPrefix(spec, "entrypoint="); ok {
		l.entrypoint = append(l.entrypoint, word)
		return nil
	}
	if path, target, ok := strings.Cut(spec, "->"); ok {
		path = strings.Trim(path, "/")
		return errors.Join(l.parents(path),
			l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: path, Linkname: target, Mode: 0o777}))
	}
	if path, file, ok := strings.Cut(spec, "="); ok {
		path = strings.Trim(path, "/")
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := l.parents(path); err != nil {
			return err
		}
		return writeFile(l.tar, tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: 0o755, Size: int64(len(data))}, data)
	}
	if path, ok := strings.CutSuffix(spec, "/"); ok {
		return l.mkdir(path)
	}
	return errors.New("it is neither a file, a link nor a folder")
}

// parents makes the folders above path, which has no slash at its ends.
func (l *layer) parents(path string) error {
	if i := strings.LastIndexByte(path, '/'); i > 0 {
		return l.mkdir(path[:i])
	}
	return nil
}

func (l *layer) mkdir(path string) error {
	path = strings.Trim(path, "/")
	if path == "" || l.dirs[path] {
		return nil
	}
	l.dirs[path] = true
	if err := l.parents(path); err != nil {
		return err
	}
	mode := int64(0o755)
	if path == "tmp" {
		mode = 0o1777
	}
	return l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: path + "/", Mode: mode})
}

func writeFile(w *tar.Writer, header tar.Header, data []byte) error {
	if err := w.WriteHeader(&header); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// descriptor is that of the OCI image specification.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// archive gives the files of an OCI image layout.
func archive(name string, entrypoint []string, data []byte) (map[string][]byte, error) {
	const prefix = "application/vnd.oci.image."
	blobs := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	add := func(mediaType string, b []byte) descriptor {
		sum := sha256.Sum256(b)
		digest := hex.EncodeToString(sum[:])
		blobs["blobs/sha256/"+digest] = b
		return descriptor{MediaType: prefix + mediaType, Digest: "sha256:" + digest, Size: len(b)}
	}
	l := add("layer.v1.tar", data)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{
			"Entrypoint": entrypoint,
			"Env":        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{l.Digest}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": prefix + "manifest.v1+json",
		"config": add("config.v1+json", config), "layers": []descriptor{l},
	})
	if err != nil {
		return nil, err
	}
	m := add("manifest.v1+json", manifest)
	m.Annotations = map[string]string{"io.containerd.image.name": name}
	blobs["index.json"], err = json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []descriptor{m}})
	return blobs, err
}
