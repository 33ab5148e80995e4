package registry

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
)

// statusGone is what proxies write down for a client that left before its answer.
const statusGone = 499

// bodyLimit bounds how long the body of a request, which nobody wants, is read.
const bodyLimit = 5 * time.Second

// recorder notes what was answered.
type recorder struct {
	http.ResponseWriter
	control *http.ResponseController
	start   time.Time
	begun   bool // the header is out
	status  int
	bytes   int64
	failure error // that the answer was, or that ended it early
	gone    bool  // the client left
}

// begin gives the request its terms. The server has no limit for whole requests:
// a long blob would hit it.
func (r *Registry) begin(w http.ResponseWriter, req *http.Request) *recorder {
	out := &recorder{ResponseWriter: w, control: http.NewResponseController(w), start: time.Now()}
	out.extend(r.cfg.Hold + r.cfg.Stall)
	if req.ContentLength != 0 {
		w.Header().Set("Connection", "close")
		// Not every writer has deadlines: a test's has none.
		_ = out.control.SetReadDeadline(out.start.Add(bodyLimit))
	}
	return out
}

// extend lets the client take d for what is written next.
func (o *recorder) extend(d time.Duration) { _ = o.control.SetWriteDeadline(time.Now().Add(d)) }

// Unwrap lets http.ResponseController find the connection.
func (o *recorder) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// WriteHeader notes the status.
func (o *recorder) WriteHeader(status int) {
	o.begun, o.status = true, status
	o.ResponseWriter.WriteHeader(status)
}

// Write counts the bytes.
func (o *recorder) Write(p []byte) (int, error) {
	o.begun = true
	n, err := o.ResponseWriter.Write(p)
	o.bytes += int64(n)
	return n, err
}

// end answers what panicked, counts and logs. A body that ended early has fewer
// bytes than its header said, so that the server closes the connection.
func (r *Registry) end(o *recorder, req *http.Request, route kind, panicked any) {
	if panicked != nil {
		o.failure = fmt.Errorf("internal error: %v", panicked)
		r.log.ErrorContext(req.Context(), "a request panicked", slog.String(logkey.Request, nixstore.Quote(req.URL.Path)),
			slog.String(logkey.Error, o.failure.Error()), slog.String(logkey.Stack, string(debug.Stack())))
		if !o.begun {
			writeError(o, o.failure)
		}
	}
	status := cmp.Or(o.status, http.StatusOK)
	switch {
	case o.gone:
		status = statusGone
	case o.failure != nil && status < http.StatusBadRequest:
		status = http.StatusInternalServerError // the body was cut
	}
	r.metrics.done(route, status, o.bytes)
	level := slog.LevelDebug
	if status >= http.StatusInternalServerError {
		level = slog.LevelInfo
	}
	if !r.log.Enabled(req.Context(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String(logkey.Method, req.Method), slog.String(logkey.Request, nixstore.Quote(req.URL.Path)),
		slog.Int(logkey.Code, status), slog.Int64(logkey.SizeBytes, o.bytes),
		slog.Float64(logkey.DurationSeconds, time.Since(o.start).Seconds()),
	}
	if o.failure != nil {
		attrs = append(attrs, slog.String(logkey.Error, cut(plain(o.failure.Error()), messageMax)))
	}
	r.log.LogAttrs(req.Context(), level, "request", attrs...)
}
