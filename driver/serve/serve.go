package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
)

// DefaultEndpoint is where the CSI socket is inside the agent's container.
const DefaultEndpoint = "unix:///csi/csi.sock"

// The defaults of Config.
const (
	defaultWatch     = time.Second
	defaultStopLimit = 10 * time.Second
)

// Config says what to serve, and where.
type Config struct {
	// Endpoint is the CSI socket: unix:///path or an absolute path; "" is DefaultEndpoint.
	Endpoint string
	// KubeletDir is kubelet's folder; "" registers with nobody.
	KubeletDir string
	// RegisterEndpoint is the path of the CSI socket as kubelet, outside the agent's
	// container, sees it. "" takes Endpoint itself when it lies below KubeletDir,
	// else <KubeletDir>/plugins/<DriverName>/csi.sock: the agent's container is
	// then expected to have that folder mounted as /csi.
	RegisterEndpoint string
	// DriverName is the name of the CSI driver; required.
	DriverName string
	// Register adds the CSI services; required. It is called once, by New.
	Register func(*grpc.Server)
	// Log gets a line for each call; nil: nobody hears.
	Log *slog.Logger
	// Registerer gets closured_publish_seconds, closured_unpublish_seconds and
	// closured_rpc_in_flight; nil: they are counted for nobody.
	Registerer prometheus.Registerer
	// WatchEvery is how often the sockets are looked after; 0: each second.
	WatchEvery time.Duration
	// StopLimit bounds how long running calls are waited for at the end; 0: 10 s.
	StopLimit time.Duration
}

// Server serves the driver. New makes one, Run runs it once.
type Server struct {
	cfg       Config
	csi       *endpoint
	kubelet   *endpoint     // nil: no registration
	registrar *registration // nil: no registration
	ran       atomic.Bool
	listening atomic.Bool
}

// New checks cfg, with every problem in its error, and makes the server. Nothing
// listens before Run.
func New(cfg Config) (*Server, error) {
	if cfg.Endpoint == "" {
		cfg.Endpoint = DefaultEndpoint
	}
	if cfg.WatchEvery <= 0 {
		cfg.WatchEvery = defaultWatch
	}
	if cfg.StopLimit <= 0 {
		cfg.StopLimit = defaultStopLimit
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	path, pathErr := SocketPath(cfg.Endpoint)
	if err := errors.Join(pathErr, cfg.validate()); err != nil {
		return nil, err
	}
	calls, err := newInterceptor(cfg.Log, cfg.Registerer)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg}
	csi := grpc.NewServer(grpc.UnaryInterceptor(calls.intercept))
	cfg.Register(csi)
	s.csi = &endpoint{path: path, grpc: csi, log: cfg.Log, every: cfg.WatchEvery}
	if cfg.KubeletDir != "" {
		s.addRegistration(path)
	}
	return s, nil
}

// validate gives what is wrong with the configuration but for the endpoint.
func (c Config) validate() error {
	var problems []error
	if !isDriverName(c.DriverName) {
		problems = append(problems, nixstore.Fail(nixstore.ErrInvalid, "use a name such as csi.closured.dev",
			"the driver name %s is not 1 to 63 letters, digits, dashes and dots (CSI specification, GetPluginInfo)", nixstore.Quote(c.DriverName)))
	}
	if c.Register == nil {
		problems = append(problems, nixstore.Fail(nixstore.ErrInvalid, "give Register", "the server has no services"))
	}
	for name, path := range map[string]string{"kubelet folder": c.KubeletDir, "registered endpoint": c.RegisterEndpoint} {
		if path != "" && (!filepath.IsAbs(path) || filepath.Clean(path) != path) {
			problems = append(problems, nixstore.Fail(nixstore.ErrInvalid, "give an absolute path without dots",
				"the %s %s is not one", name, nixstore.Quote(path)))
		}
	}
	if c.KubeletDir != "" {
		problems = append(problems, checkLength(registrationSocket(c)))
	}
	return errors.Join(problems...)
}

// Ready says why the driver cannot be used, or nil. A kubelet that has not come
// yet is no reason, as there may be none on this machine; one that refused is.
func (s *Server) Ready() error {
	if !s.listening.Load() {
		return nixstore.Fail(nixstore.ErrUnavailable, "wait", "the CSI socket %s is not served yet", s.csi.path)
	}
	problem := s.csi.trouble()
	if s.registrar != nil {
		problem = errors.Join(problem, s.kubelet.trouble(), s.registrar.refusal())
	}
	return problem
}

// Run serves until ctx ends: then it withdraws the registration, waits for running
// calls at most Config.StopLimit, removes both sockets, and gives nil. It never
// unmounts. Any other end is an error, among them nixstore.ErrConflict when
// another process answers on the socket. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	if s.ran.Swap(true) {
		return nixstore.Fail(nixstore.ErrConflict, "make another server", "the server of %s ran already", s.csi.path)
	}
	// The CSI socket listens before the other appears: kubelet connects to it at once.
	if err := s.csi.open(ctx); err != nil {
		return s.abandon(err)
	}
	if s.kubelet != nil {
		if err := s.kubelet.open(ctx); err != nil {
			return s.abandon(err)
		}
	}
	s.listening.Store(true)
	defer s.listening.Store(false)
	s.cfg.Log.Info("serving", slog.String(logkey.Socket, s.csi.path), slog.String(logkey.Driver, s.cfg.DriverName))

	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return s.csi.serve(running) })
	if s.kubelet != nil {
		group.Go(func() error { return s.kubelet.serve(running) })
	}
	<-running.Done()
	s.stop()
	return group.Wait()
}

// stop ends both servers, the registration first: kubelet then sends no new calls.
func (s *Server) stop() {
	if s.kubelet != nil {
		s.kubelet.end(registrationLimit)
	}
	if !s.csi.end(s.cfg.StopLimit) {
		s.cfg.Log.Warn("running calls were cut off", slog.Float64(logkey.DurationSeconds, s.cfg.StopLimit.Seconds()))
	}
}

// abandon gives back what was opened of a server that cannot run.
func (s *Server) abandon(err error) error {
	s.stop()
	return fmt.Errorf("serving the driver: %w", err)
}

// stopWithin lets running calls finish for at most limit, and tells whether that
// was enough.
func stopWithin(server *grpc.Server, limit time.Duration) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.GracefulStop()
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		server.Stop() // ends the calls' contexts, and with them GracefulStop
		<-done
		return false
	}
}

// isDriverName checks the CSI specification's rule for names: at most 63
// characters, beginning and ending with a letter or digit.
func isDriverName(s string) bool {
	const most = 63
	if s == "" || len(s) > most {
		return false
	}
	for i := range len(s) {
		c := s[i]
		plain := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		inner := (c == '-' || c == '.') && i > 0 && i < len(s)-1
		if !plain && !inner {
			return false
		}
	}
	return true
}
