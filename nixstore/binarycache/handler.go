package binarycache

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
)

// userName is the user of HTTP's basic authentication.
const userName = "closured"

// defaultStreams is how many contents are served at the same time. Each takes a
// buffer, a thread that reads the disk, and a core while it hashes.
const defaultStreams = 16

// Store is what a binary cache needs to know of the node's store; nixcli.Store
// has it. Its methods may be called concurrently, start no process, and do not wait.
type Store interface {
	// FindByHash gives the valid path with that hash part. Errors: ErrInvalid,
	// ErrNotFound.
	FindByHash(ctx context.Context, hash string) (nixstore.StorePath, error)
	// Info gives what the store knows of one valid path. Errors: ErrNotFound.
	Info(ctx context.Context, path nixstore.StorePath) (nixstore.PathInfo, error)
}

// Config says what to serve and to whom. Store, StoreDir and Keys are required;
// the zero value of every other field is its default.
type Config struct {
	// Store tells which paths are valid.
	Store Store
	// StoreDir is the physical folder of the store's paths, such as
	// /var/lib/closured/nix/store.
	StoreDir string
	// Keys sign what is served, each of them, and let their holders in. One is
	// enough; while an installation changes its key, there are the new and the old one.
	Keys []SecretKey
	// Streams is how many contents are served at the same time; others wait, and are
	// told to come again after 20 s. Default: 16.
	Streams int
	// Log gets a line for each request (debug) and for each damaged path (error).
	// Default: nowhere.
	Log *slog.Logger
	// Registerer gets closured_binarycache_requests_total, …_sent_bytes_total,
	// …_cut_total and …_streams; nil: no metrics.
	Registerer prometheus.Registerer
}

// Handler is the binary cache as an http.Handler. It may be called concurrently.
// It relies on the server for limits of connections and headers: see Listen.
type Handler struct {
	cfg     Config
	clients [][sha256.Size]byte // hashes of "<user>:<password>" of those who are let in
	slots   chan struct{}       // one element for each stream
	buffers sync.Pool           // of *[]byte
	metrics *metrics
}

// New checks cfg and gives the handler. ErrInvalid says what of cfg is wrong, all
// of it at once. It neither opens nor starts anything.
func New(cfg Config) (*Handler, error) {
	if cfg.Streams == 0 {
		cfg.Streams = defaultStreams
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	h := &Handler{cfg: cfg, slots: make(chan struct{}, cfg.Streams)}
	h.buffers.New = func() any { b := make([]byte, bufferSize); return &b }
	for _, key := range cfg.Keys {
		password, err := key.password()
		if err != nil {
			return nil, err
		}
		h.clients = append(h.clients, credentials(userName, password))
	}
	var err error
	h.metrics, err = newMetrics(cfg.Registerer)
	return h, err
}

func (c Config) check() error {
	var problems []error
	if c.Store == nil {
		problems = append(problems, nixstore.Fail(nixstore.ErrInvalid, "", "the binary cache has no store"))
	}
	if !filepath.IsAbs(c.StoreDir) {
		problems = append(problems, nixstore.Fail(nixstore.ErrInvalid, "give an absolute path",
			"the store's folder %s is not an absolute path", nixstore.Quote(c.StoreDir)))
	}
	if len(c.Keys) == 0 || slices.ContainsFunc(c.Keys, SecretKey.IsZero) {
		problems = append(problems, nixstore.Fail(nixstore.ErrInvalid, "make one at install", "the binary cache has no secret key"))
	}
	if c.Streams < 0 {
		problems = append(problems, nixstore.Fail(nixstore.ErrInvalid, "", "the number of streams %d is negative", c.Streams))
	}
	return errors.Join(problems...)
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	a := &answer{to: w, control: http.NewResponseController(w), head: r.Method == http.MethodHead}
	kind, err := h.serve(a, r)
	switch {
	case err != nil && a.begun():
		h.cut(r, a, err) // too late to say it
	case err != nil:
		h.refuse(r, a, err)
	}
	h.metrics.done(kind, a)
	h.cfg.Log.DebugContext(r.Context(), "binary cache request",
		slog.String(logkey.Method, r.Method), slog.String(logkey.Path, nixstore.Quote(r.URL.Path)),
		slog.Int(logkey.Code, a.status), slog.Int64(logkey.SizeBytes, a.bytes),
		slog.String(logkey.Address, r.RemoteAddr), slog.Float64(logkey.DurationSeconds, time.Since(started).Seconds()))
}

// serve answers, or gives the error to answer with, and what kind of request it was.
func (h *Handler) serve(a *answer, r *http.Request) (requestKind, error) {
	if r.ContentLength != 0 { // nobody waits for it either
		a.refuseBody()
		return kindOther, nixstore.Fail(nixstore.ErrInvalid, "send none", "the request has a body")
	}
	if !h.knows(r) {
		return kindOther, errUnauthorized
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return kindOther, errMethod
	}
	to, err := parseRequest(r.URL.Path)
	if err != nil {
		return to.kind, err
	}
	switch to.kind {
	case kindCacheInfo:
		return to.kind, a.text(typeCacheInfo, cacheInfo)
	case kindNarInfo:
		return to.kind, h.narInfo(r.Context(), a, to)
	default:
		return to.kind, h.nar(r.Context(), a, to)
	}
}

// knows tells whether a request comes from a holder of one of the keys. All are
// compared, and hashes of them, so that time tells nothing of the passwords.
func (h *Handler) knows(r *http.Request) bool {
	user, password, ok := r.BasicAuth()
	given := credentials(user, password)
	known := 0
	for _, client := range h.clients {
		known |= subtle.ConstantTimeCompare(given[:], client[:])
	}
	return ok && known == 1
}

func credentials(user, password string) [sha256.Size]byte {
	return sha256.Sum256([]byte(user + ":" + password))
}
