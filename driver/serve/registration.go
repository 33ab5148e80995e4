package serve

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
)

const (
	// registrationFolder is where kubelet's plugin watcher looks, below its folder.
	registrationFolder = "plugins_registry"
	// csiVersion is the version of CSI that kubelet takes for a driver's
	// (k8s.io/kubernetes pkg/volume/csi/csi_plugin.go, highestSupportedVersion).
	csiVersion = "1.0.0"
	// registrationLimit is how long kubelet's own calls get at the end; none takes
	// longer than an instant.
	registrationLimit = time.Second
)

// registration is the service that kubelet calls on the second socket: who are
// you, and then whether it took us.
type registration struct {
	registerapi.UnimplementedRegistrationServer

	info *registerapi.PluginInfo // never changes: GetInfo must answer within a second
	log  *slog.Logger

	mu      sync.Mutex // guards what follows
	refused error      // kubelet's last word; nil when it took us, or has not come yet
	taken   bool       // kubelet's last word was that it took us
}

// registrationSocket gives the path of the second socket.
func registrationSocket(cfg Config) string {
	return filepath.Join(cfg.KubeletDir, registrationFolder, cfg.DriverName+"-reg.sock")
}

// addRegistration adds the second server. path is the CSI socket as this process
// sees it.
func (s *Server) addRegistration(path string) {
	s.registrar = &registration{
		log: s.cfg.Log,
		info: &registerapi.PluginInfo{
			Type:              registerapi.CSIPlugin,
			Name:              s.cfg.DriverName,
			Endpoint:          s.registeredEndpoint(path),
			SupportedVersions: []string{csiVersion},
		},
	}
	server := grpc.NewServer()
	registerapi.RegisterRegistrationServer(server, s.registrar)
	s.kubelet = &endpoint{path: registrationSocket(s.cfg), grpc: server, log: s.cfg.Log, every: s.cfg.WatchEvery}
}

// registeredEndpoint gives the path of the CSI socket as kubelet sees it.
func (s *Server) registeredEndpoint(path string) string {
	if s.cfg.RegisterEndpoint != "" {
		return s.cfg.RegisterEndpoint
	}
	if strings.HasPrefix(path, strings.TrimSuffix(s.cfg.KubeletDir, "/")+"/") {
		return path
	}
	return filepath.Join(s.cfg.KubeletDir, "plugins", s.cfg.DriverName, filepath.Base(path))
}

// GetInfo tells kubelet who we are.
func (r *registration) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	r.log.Debug("kubelet asks who we are", slog.String(logkey.Driver, r.info.GetName()), slog.String(logkey.Socket, r.info.GetEndpoint()))
	return r.info, nil
}

// NotifyRegistrationStatus hears whether kubelet took us. kubelet tries again by
// itself after a refusal, so nothing is done but to tell the operator.
func (r *registration) NotifyRegistrationStatus(
	_ context.Context, status *registerapi.RegistrationStatus,
) (*registerapi.RegistrationStatusResponse, error) {
	var refused error
	if status.GetPluginRegistered() {
		r.log.Info("registered with kubelet", slog.String(logkey.Driver, r.info.GetName()))
	} else {
		reason := status.GetError()
		r.log.Error("kubelet refused the registration", slog.String(logkey.Driver, r.info.GetName()),
			slog.String(logkey.Socket, r.info.GetEndpoint()), slog.String(logkey.Error, reason))
		refused = nixstore.Fail(nixstore.ErrUnavailable, "see kubelet's log; does it see the socket "+r.info.GetEndpoint()+"?",
			"kubelet refused to register %s: %s", r.info.GetName(), nixstore.Quote(reason))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused, r.taken = refused, refused == nil
	return &registerapi.RegistrationStatusResponse{}, nil
}

func (r *registration) refusal() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused
}

// Registered tells whether pods can use the driver as far as kubelet is
// concerned: its last word was that it took us, or there is no kubelet to ask.
// By then kubelet has also named the driver in the node's CSINode object
// (k8s.io/kubernetes pkg/volume/csi/csi_plugin.go, RegisterPlugin).
func (s *Server) Registered() bool {
	if s.registrar == nil {
		return true
	}
	s.registrar.mu.Lock()
	defer s.registrar.mu.Unlock()
	return s.registrar.taken
}
