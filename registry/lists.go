package registry

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/closured/closured/nixstore"
)

// pageMax bounds one page of a list.
const pageMax = 1000

// tagList answers with the tags of a name. Of a name that means nothing there is
// no list, so that it is resolved like a pull.
func (r *Registry) tagList(w *recorder, req *http.Request, n name, t route) error {
	query := req.URL.Query()
	limit, err := pageSize(query)
	if err != nil {
		return err
	}
	tags, err := r.knownTags(req, n)
	if err != nil {
		return err
	}
	if last := query.Get("last"); last != "" {
		at, found := slices.BinarySearch(tags, last)
		if found {
			at++
		}
		tags = tags[at:]
	}
	if len(tags) > limit {
		tags = tags[:limit]
		if limit > 0 {
			next := url.Values{"n": {strconv.Itoa(limit)}, "last": {tags[limit-1]}}
			w.Header().Set("Link", "</v2/"+t.repository+"/tags/list?"+next.Encode()+`>; rel="next"`)
		}
	}
	w.Header().Set("Cache-Control", cacheNever)
	writeJSON(w, http.StatusOK, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{t.repository, append([]string{}, tags...)}) // "[]" and never "null"
	return nil
}

func (r *Registry) knownTags(req *http.Request, n name) ([]string, error) {
	if n.kind == nixstore.SourceImage {
		if _, err := r.allowed(n); err != nil {
			return nil, err
		}
		return r.tags(req.Context(), n)
	}
	c, err := r.tagged(req.Context(), n, latest)
	if err != nil {
		return nil, err
	}
	c.release()
	return []string{latest}, nil
}

// pageSize reads the parameter n.
func pageSize(query url.Values) (int, error) {
	text := query.Get("n")
	if text == "" {
		return pageMax, nil
	}
	if len(text) > 10 || strings.Trim(text, "0123456789") != "" {
		return 0, withCode(codePagination, nixstore.Fail(nixstore.ErrInvalid, "give a number from 0 on",
			"n is %s, which is no size of a page", nixstore.Quote(text)))
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return pageMax, nil //nolint:nilerr // all its characters are digits: it is greater than any page
	}
	return int(min(n, pageMax)), nil
}

// index is an OCI image index of referrers.
type index struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []json.RawMessage `json:"manifests"`
}

// referrers answers with the manifests that refer to one of n's: its bill of
// materials. To an unknown digest nothing refers.
func (r *Registry) referrers(w *recorder, req *http.Request, n name, t route) error {
	out := index{SchemaVersion: 2, MediaType: mediaTypeIndex, Manifests: []json.RawMessage{}}
	c, err := r.holding(req.Context(), n, t, func(s *served) bool {
		_, ok := s.manifest(t.reference)
		return ok
	})
	if err != nil && !errors.Is(err, nixstore.ErrNotFound) {
		return err
	}
	filter := req.URL.Query().Get("artifactType")
	if err == nil {
		defer c.release()
		if t.reference == c.own.digest && (filter == "" || filter == c.billType) {
			out.Manifests = append(out.Manifests, c.descriptor)
		}
	}
	if filter != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	w.Header().Set("Cache-Control", cacheNever)
	writeJSON(w, http.StatusOK, mediaTypeIndex, out)
	return nil
}
