package registry

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/closured/closured/nixstore"
)

const (
	mediaTypeManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaTypeIndex    = "application/vnd.oci.image.index.v1+json"
)

// Values of Cache-Control: what a digest names never changes, a tag may at any time.
const (
	cacheForever = "max-age=31536000, immutable"
	cacheNever   = "no-cache"
)

// serve answers one request.
func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	out := r.begin(w, req)
	t := route{kind: kindOther}
	defer func() { r.end(out, req, t.kind, recover()) }()
	t = parsePath(req.URL.Path)
	if err := r.answer(out, req, t); err != nil {
		if req.Context().Err() != nil {
			// Nobody listens, unless the client merely said that it sends no more: then
			// an answer that nobody wrote would be 200 to it.
			out.gone = true
			err = nixstore.Fail(nixstore.ErrUnavailable, "ask again", "the request ended before its answer")
		}
		out.failure = err
		if !out.begun {
			writeError(out, err)
		}
	}
}

// answer answers, or gives the error that the answer should be.
func (r *Registry) answer(w *recorder, req *http.Request, t route) error {
	h := w.Header()
	h.Set("Docker-Distribution-API-Version", "registry/2.0")
	h.Set("X-Content-Type-Options", "nosniff")
	if err := r.admit(req, t); err != nil {
		return err
	}
	if t.kind == kindBase {
		h.Set("Cache-Control", cacheNever)
		writeJSON(w, http.StatusOK, "application/json", struct{}{})
		return nil
	}
	if t.kind == kindOther {
		return noRoute(req.URL.Path)
	}
	n, err := parseName(t.repository)
	if err == nil {
		err = t.check()
	}
	if err != nil {
		return err
	}
	switch t.kind {
	case kindManifest:
		return r.manifest(w, req, n, t)
	case kindBlob:
		return r.blob(w, req, n, t)
	case kindTags:
		return r.tagList(w, req, n, t)
	default:
		return r.referrers(w, req, n, t)
	}
}

// admit refuses pushes, and what is meant for another host.
func (r *Registry) admit(req *http.Request, t route) error {
	inside := t.kind != kindOther || strings.HasPrefix(req.URL.Path, "/v2/")
	if inside && req.Method != http.MethodGet && req.Method != http.MethodHead {
		return &coded{
			error: nixstore.Fail(nixstore.ErrInvalid, "push to another registry", "this registry serves the node's Nix store, and takes nothing"),
			code:  codeUnsupported, status: http.StatusMethodNotAllowed,
		}
	}
	// A mirror that answered for other hosts would give its own images in their names.
	ns := req.URL.Query().Get("ns")
	if ns != "" && r.cfg.Host != "" && !strings.EqualFold(ns, r.cfg.Host) {
		return nixstore.Fail(nixstore.ErrNotFound, "correct the hosts.toml of that host",
			"this registry serves %s, not %s", r.cfg.Host, nixstore.Quote(ns))
	}
	return nil
}

func noRoute(path string) error {
	return &coded{
		error: nixstore.Fail(nixstore.ErrNotFound, "see the OCI distribution specification; there is no catalogue, since names are made up by those who pull",
			"there is nothing at %s", nixstore.Quote(path)),
		code: codeUnsupported, status: http.StatusNotFound,
	}
}

// manifest answers for an image's manifest, or that of its bill of materials.
func (r *Registry) manifest(w *recorder, req *http.Request, n name, t route) error {
	start := time.Now()
	m, err := r.findManifest(req.Context(), n, t)
	if err != nil {
		return err
	}
	r.metrics.manifestSeconds.Observe(time.Since(start).Seconds())
	h := w.Header()
	h.Set("Docker-Content-Digest", m.digest)
	h.Set("Etag", strconv.Quote(m.digest))
	h.Set("Cache-Control", cacheNever)
	if t.isDigest() {
		h.Set("Cache-Control", cacheForever)
	}
	if matches(req.Header.Values("If-None-Match"), m.digest) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", m.mediaType)
	h.Set("Content-Length", strconv.Itoa(len(m.body)))
	w.WriteHeader(http.StatusOK)
	return r.send(w, req, m.body)
}

// findManifest gives the manifest that a route names, and notes its use.
func (r *Registry) findManifest(ctx context.Context, n name, t route) (m manifest, err error) {
	var c claim
	if t.isDigest() {
		c, err = r.holding(ctx, n, t, func(s *served) bool {
			_, ok := s.manifest(t.reference)
			return ok
		})
	} else {
		c, err = r.tagged(ctx, n, t.reference)
	}
	switch {
	case err == nil:
		defer c.release()
	case errors.Is(err, nixstore.ErrNotFound) && t.isDigest():
		return manifest{}, withCode(codeManifestUnknown, err)
	default:
		return manifest{}, err
	}
	if !t.isDigest() {
		return c.tagged(), nil
	}
	m, _ = c.manifest(t.reference)
	return m, nil
}

// send writes a small body.
func (r *Registry) send(w *recorder, req *http.Request, body []byte) error {
	if req.Method == http.MethodHead {
		return nil
	}
	w.extend(r.cfg.Stall)
	_, err := w.Write(body)
	return err
}
