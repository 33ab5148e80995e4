package binarycache

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
)

const (
	// slotWait is how long a request waits for its turn. Nix takes a cache that says
	// nothing for 30 s for stalled, as closured sets it (stalled-download-timeout).
	slotWait = 20 * time.Second
	// writeLimit is how long a client may take for one buffer of a content.
	writeLimit = 30 * time.Second
	// bodyLimit is how long the rest of an unwanted body is listened to.
	bodyLimit = 5 * time.Second
	// retryAfter is when a client that was sent away may come again, in seconds.
	retryAfter = "5"
)

// priority is lower, and so better, than the 40 of cache.nixos.org: other nodes
// are nearer.
const priority = 20

// cacheInfo is the text of nix-cache-info. WantMassQuery lets Nix ask for many
// paths at once.
const cacheInfo = "StoreDir: " + nixstore.Dir + "\nWantMassQuery: 1\nPriority: 20\n"

// Errors that are HTTP's and no store's.
var (
	errUnauthorized = errors.New("the user or the password is wrong; next: name this node in the file that netrc-file of nix.conf names")
	errMethod       = errors.New("only GET and HEAD are understood")
)

// narInfo answers with the description of a path.
func (h *Handler) narInfo(ctx context.Context, a *answer, to request) error {
	found, err := h.find(ctx, to.hash)
	if err != nil {
		return err
	}
	return a.text(typeNarInfo, found.text(h.cfg.Keys))
}

// find gives the valid path of a hash.
func (h *Handler) find(ctx context.Context, hash string) (described, error) {
	path, err := h.cfg.Store.FindByHash(ctx, hash)
	if err != nil {
		return described{}, err
	}
	info, err := h.cfg.Store.Info(ctx, path)
	if err != nil {
		return described{}, err
	}
	return describe(info)
}

// nar answers with the content of a path.
func (h *Handler) nar(ctx context.Context, a *answer, to request) error {
	found, err := h.find(ctx, to.hash)
	if err != nil {
		return err
	}
	if found.base32 != to.content {
		return nixstore.Fail(nixstore.ErrNotFound, "ask for its narinfo again", "%s has another content here", found.Path)
	}
	header := a.to.Header()
	header.Set("Content-Type", typeNar)
	header.Set("Content-Length", strconv.FormatInt(found.NarSize, 10))
	if a.head {
		a.begin(http.StatusOK)
		return nil
	}
	release, err := h.slot(ctx)
	if err != nil {
		return err
	}
	defer release()
	buf, ok := h.buffers.Get().(*[]byte)
	if !ok {
		buf = new([]byte)
		*buf = make([]byte, bufferSize)
	}
	defer h.buffers.Put(buf)
	return writeNAR(ctx, newChecked(a, found, *buf), h.cfg.StoreDir, found.Path)
}

// slot waits for its turn to stream.
func (h *Handler) slot(ctx context.Context) (release func(), err error) {
	timer := time.NewTimer(slotWait)
	defer timer.Stop()
	select {
	case h.slots <- struct{}{}:
		h.metrics.streams.Inc()
		return func() { h.metrics.streams.Dec(); <-h.slots }, nil
	case <-timer.C:
		return nil, nixstore.Fail(nixstore.ErrBusy, "come again", "this node serves %d others now", h.cfg.Streams)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// refuse answers with an error in plain text.
func (h *Handler) refuse(r *http.Request, a *answer, err error) {
	header := a.to.Header()
	header.Del("Content-Length")
	header.Set("X-Content-Type-Options", "nosniff")
	code := statusOf(err)
	text := err.Error()
	switch code {
	case http.StatusUnauthorized:
		header.Set("Connection", "close") // who has no password is to hold no connection
		header.Set("WWW-Authenticate", `Basic realm="`+userName+`"`)
	case http.StatusMethodNotAllowed:
		header.Set("Allow", "GET, HEAD")
	case http.StatusServiceUnavailable:
		header.Set("Retry-After", retryAfter)
	case http.StatusInternalServerError:
		if r.Context().Err() != nil {
			return // nobody listens
		}
		h.damaged(r.Context(), err)
		if _, ok := errors.AsType[*nixstore.Failure](err); !ok {
			text = "something is wrong on this node; its log says what"
		}
	}
	header.Set("Content-Type", "text/plain; charset=utf-8")
	a.begin(code)
	_, _ = io.WriteString(a, text+"\n") // who is gone needs no answer
}

// cut ends an answer that was begun. The server closes the connection of an answer
// that is shorter than it declared, so that no client takes it for the whole.
func (h *Handler) cut(r *http.Request, a *answer, err error) {
	reason := "store"
	if errors.Is(err, errOutput) || r.Context().Err() != nil {
		reason = "client"
	} else {
		h.damaged(r.Context(), err)
	}
	h.metrics.cut.WithLabelValues(reason).Inc()
	h.cfg.Log.DebugContext(r.Context(), "binary cache answer cut", slog.String(logkey.Path, nixstore.Quote(r.URL.Path)),
		slog.Int64(logkey.SizeBytes, a.bytes), slog.String(logkey.Error, err.Error()))
}

// damaged tells the operator of something that other nodes cannot fetch.
func (h *Handler) damaged(ctx context.Context, err error) {
	h.cfg.Log.ErrorContext(ctx, "cannot serve a path", slog.String(logkey.Error, err.Error()))
}

// statusOf translates the vocabulary of nixstore to HTTP.
func statusOf(err error) int {
	for _, t := range []struct {
		kind error
		code int
	}{
		{errUnauthorized, http.StatusUnauthorized},
		{errMethod, http.StatusMethodNotAllowed},
		{nixstore.ErrInvalid, http.StatusBadRequest},
		{nixstore.ErrNotFound, http.StatusNotFound},
		{nixstore.ErrBusy, http.StatusServiceUnavailable},
		{nixstore.ErrUnavailable, http.StatusServiceUnavailable},
	} {
		if errors.Is(err, t.kind) {
			return t.code
		}
	}
	return http.StatusInternalServerError
}

// answer is the answer to one request.
type answer struct {
	to      http.ResponseWriter
	control *http.ResponseController
	head    bool
	status  int   // 0: not begun
	bytes   int64 // of the body
}

func (a *answer) begun() bool { return a.status != 0 }

func (a *answer) begin(status int) {
	a.status = status
	a.to.WriteHeader(status)
}

// text answers with a small text.
func (a *answer) text(kind, text string) error {
	header := a.to.Header()
	header.Set("Content-Type", kind)
	header.Set("Content-Length", strconv.Itoa(len(text)))
	_, err := io.WriteString(a, text)
	return err
}

// Write writes a part of the body and gives the client some time for it.
func (a *answer) Write(p []byte) (int, error) {
	if !a.begun() {
		a.begin(http.StatusOK)
	}
	if err := a.control.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	n, err := a.to.Write(p)
	a.bytes += int64(n)
	return n, err
}

// refuseBody sees to it that the server does not wait for a body.
func (a *answer) refuseBody() {
	a.to.Header().Set("Connection", "close")
	_ = a.control.SetReadDeadline(time.Now().Add(bodyLimit)) // what cannot be set is not a connection
}
