package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/internal/redact"
)

// maxLogged bounds a text of a log line, in bytes.
const maxLogged = 1024

// interceptor stands around each call: it logs one line, measures, and turns a
// panic into an error.
type interceptor struct {
	log       *slog.Logger
	redact    *redact.Redactor
	publish   *prometheus.HistogramVec
	unpublish *prometheus.HistogramVec
	inFlight  prometheus.Gauge
}

func newInterceptor(log *slog.Logger, reg prometheus.Registerer) (*interceptor, error) {
	// From a warm publish below a millisecond to kubelet's limit of two minutes.
	buckets := []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}
	i := &interceptor{
		log:    log,
		redact: redact.New(),
		publish: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "closured_publish_seconds", Buckets: buckets,
			Help: "Time of NodePublishVolume calls, by result: a gRPC code.",
		}, []string{"result"}),
		unpublish: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "closured_unpublish_seconds", Buckets: buckets,
			Help: "Time of NodeUnpublishVolume calls, by result: a gRPC code.",
		}, []string{"result"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "closured_rpc_in_flight", Help: "CSI calls that are running.",
		}),
	}
	if reg == nil {
		return i, nil
	}
	err := errors.Join(reg.Register(i.publish), reg.Register(i.unpublish), reg.Register(i.inFlight))
	if err != nil {
		return nil, fmt.Errorf("registering the metrics of the calls: %w", err)
	}
	return i, nil
}

// intercept is the grpc.UnaryServerInterceptor.
func (i *interceptor) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	i.inFlight.Inc()
	defer i.inFlight.Dec()
	start := time.Now()
	resp, err := i.call(ctx, req, info, handler)
	i.done(ctx, req, info.FullMethod, err, time.Since(start))
	return resp, err
}

// call runs the handler; a panic becomes Internal, so that one broken request does
// not take the agent down for all pods of the node.
func (i *interceptor) call(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		cause := recover()
		if cause == nil {
			return
		}
		i.log.ErrorContext(ctx, "a call panicked", slog.String(logkey.Method, info.FullMethod),
			slog.String(logkey.Error, i.bounded(fmt.Sprint(cause))), slog.String(logkey.Stack, string(debug.Stack())))
		resp = nil
		err = fault(info.FullMethod)
	}()
	return handler(ctx, req)
}

// fault is the answer to a call that panicked. It is the one status that package
// driver cannot make, since its own code has failed. What the panic said stays in
// the log, as it may hold anything.
func fault(method string) error {
	return status.FromProto(&rpcstatus.Status{
		Code:    int32(codes.Internal),
		Message: "the driver has a fault in " + path.Base(method) + "; next: report it with the agent's log",
	}).Err()
}

// done logs and measures an answer.
func (i *interceptor) done(ctx context.Context, req any, method string, err error, took time.Duration) {
	code := status.Code(err)
	switch path.Base(method) {
	case "NodePublishVolume":
		i.publish.WithLabelValues(code.String()).Observe(took.Seconds())
	case "NodeUnpublishVolume":
		i.unpublish.WithLabelValues(code.String()).Observe(took.Seconds())
	}
	level := levelOf(method, code)
	if !i.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String(logkey.Method, method),
		slog.String(logkey.Code, code.String()),
		slog.Float64(logkey.DurationSeconds, took.Seconds()),
	}
	if r, ok := req.(interface{ GetVolumeId() string }); ok {
		attrs = append(attrs, slog.String(logkey.VolumeID, i.bounded(r.GetVolumeId())))
	}
	if r, ok := req.(interface{ GetTargetPath() string }); ok {
		attrs = append(attrs, slog.String(logkey.Target, i.bounded(r.GetTargetPath())))
	}
	if err != nil {
		attrs = append(attrs, slog.String(logkey.Error, i.bounded(status.Convert(err).Message())))
	}
	if err != nil || i.log.Enabled(ctx, slog.LevelDebug) {
		attrs = append(attrs, slog.Any(logkey.Request, i.sanitise(req)))
	}
	i.log.LogAttrs(ctx, level, "call answered", attrs...)
}

// bounded masks secrets in a text, and cuts it.
func (i *interceptor) bounded(s string) string {
	s = i.redact.Text(s[:min(len(s), 8*maxLogged)])
	return strings.ToValidUTF8(s[:min(len(s), maxLogged)], "")
}

// levelOf gives the level at which an answer is logged: errors are what an operator
// must look at, warnings what may pass by itself. A client's mistake is neither.
func levelOf(method string, code codes.Code) slog.Level {
	switch code {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		return slog.LevelError
	case codes.Unavailable, codes.ResourceExhausted:
		return slog.LevelWarn
	case codes.OK:
		if isProbe(method) {
			return slog.LevelDebug
		}
	default: // the client's
	}
	return slog.LevelInfo
}

// isProbe tells whether a method is one that kubelet and probes call all the time.
func isProbe(method string) bool {
	switch path.Base(method) {
	case "Probe", "GetPluginInfo", "GetPluginCapabilities", "NodeGetInfo", "NodeGetCapabilities", "NodeGetVolumeStats":
		return true
	}
	return false
}
