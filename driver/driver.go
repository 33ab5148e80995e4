package driver

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/closured/closured/driver/policy"
	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/internal/redact"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/pins"
)

// Pins is what the driver reads of the pins; their making and going belongs to
// the Provider. Safe for concurrent use.
type Pins interface {
	// Get gives the root that the holder pins.
	Get(h nixstore.Holder) (nixstore.StorePath, bool)
	// Find gives the pins of a kind whose names begin with prefix.
	Find(kind nixstore.HolderKind, prefix string) []pins.Pin
	// List gives all pins of a kind.
	List(kind nixstore.HolderKind) []pins.Pin
}

// Mounter shows closures at targets. Safe for concurrent use with different targets.
type Mounter interface {
	// Mount shows v at t. After an error nothing is at t that was not there before.
	Mount(ctx context.Context, v view.Volume, t *view.Target) error
	// Unmount takes away what is at t, t itself, and the private layer of the
	// volume, and is content when there is none of it. A nil t stands for a target
	// whose parent folder is gone.
	Unmount(ctx context.Context, id string, t *view.Target) error
	// Mounted compares what is at t with v.
	Mounted(t *view.Target, v view.Volume) (view.State, error)
}

// Observer tells what is mounted on the node.
type Observer interface {
	// Volumes gives every mount of a view of ours outside the state directory.
	Volumes() ([]view.Mounted, error)
	// SweepWritable removes the private layers of volumes that keep refuses.
	SweepWritable(keep func(id string) bool) error
	// Usage measures a volume.
	Usage(t *view.Target, v view.Volume) (view.Usage, error)
}

// Views is a view.Manager, as the driver uses it.
type Views interface {
	Mounter
	Observer
}

// Policy tells who may ask for what. Safe for concurrent use.
type Policy interface {
	// Check gives what the namespace may do with the source, or ErrForbidden.
	Check(namespace string, src nixstore.Source) (policy.Decision, error)
}

// HostUsers asks the cluster whether a pod lives in the host's user namespace.
type HostUsers interface {
	// HostUsers gives the pod's spec.hostUsers; known is false when the pod does
	// not say, or cannot be found.
	HostUsers(ctx context.Context, namespace, pod string) (known, hostUsers bool, err error)
}

// Config is what a Driver needs. Name, NodeID, Provider, Pins, Views and Policy are required.
type Config struct {
	Name    string // driver name, such as "csi.closured.dev" (CSI GetPluginInfo: a domain name)
	Version string // of this program; empty: "unknown"
	NodeID  string // what NodeGetInfo answers, at most 192 bytes (CSI spec)
	// KubeletDir makes the driver accept only kubelet's targets below this folder,
	// and only with the pod's uid. Empty: any absolute target.
	KubeletDir string
	System     string // Nix system of this node; empty: nixstore.System()

	Provider nixstore.Provider
	Pins     Pins
	Views    Views
	Policy   Policy
	// Ready tells why the node cannot publish now; nil: always ready. It must be quick.
	Ready func() error
	// HostUsers is asked for pods that do not say hostUsers themselves; nil: nobody is asked.
	HostUsers HostUsers
	// Events hears of volumes whose closure is not on the node yet; nil: nobody does.
	Events   Events
	Flights  Flights      // required with Events
	Images   Images       // for events of volumes that wait for one; nil: there are none
	Closures Closures     // for the sizes in events; nil: they name none
	Log      *slog.Logger // nil: discard
}

// Limits of waiting.
const (
	// kubeletTimeout is how long kubelet gives a call (pkg/volume/csi, csiTimeout);
	// callers that give no deadline get the same.
	kubeletTimeout = 2 * time.Minute
	// answerReserve is kept of a call's time to answer it in.
	answerReserve = 5 * time.Second
	// shortCall is the length of a call below which half of it is kept instead.
	shortCall = 10 * time.Second
	// undoTimeout bounds the undoing of a publish whose caller may be gone.
	undoTimeout = 10 * time.Second
	// hostUsersTimeout bounds the one question to the API server.
	hostUsersTimeout = 2 * time.Second
)

// Driver is the Identity and the Node service of one node.
type Driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedNodeServer

	cfg      Config
	log      *slog.Logger
	locks    *locks
	interest *interest
	stories  *stories
	words    *redact.Redactor // for events; nil when nobody hears of them
}

var (
	_ csi.IdentityServer = (*Driver)(nil)
	_ csi.NodeServer     = (*Driver)(nil)
)

// New makes a Driver, or tells everything that is wrong with cfg. It touches nothing.
func New(cfg Config) (*Driver, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Version == "" {
		cfg.Version = "unknown"
	}
	if cfg.System == "" {
		cfg.System = nixstore.System()
	}
	if cfg.Ready == nil {
		cfg.Ready = func() error { return nil }
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	d := &Driver{cfg: cfg, log: log, locks: newLocks(), interest: newInterest(), stories: newStories()}
	if cfg.Events != nil {
		d.words = redact.New()
	}
	return d, nil
}

// nodeIDMax is the longest node id in bytes (CSI spec, NodeGetInfoResponse.node_id).
const nodeIDMax = 192

func (c Config) validate() error {
	var problems []error
	require := func(ok bool, problem string) {
		if !ok {
			problems = append(problems, errors.New("driver: "+problem))
		}
	}
	require(c.Name != "", "Name is missing")
	require(c.NodeID != "", "NodeID is missing")
	require(len(c.NodeID) <= nodeIDMax, "NodeID is longer than 192 bytes")
	require(c.KubeletDir == "" || (filepath.IsAbs(c.KubeletDir) && filepath.Clean(c.KubeletDir) == c.KubeletDir && c.KubeletDir != "/"),
		"KubeletDir must be an absolute, clean path other than /")
	require(c.Provider != nil, "Provider is missing")
	require(c.Pins != nil, "Pins is missing")
	require(c.Views != nil, "Views is missing")
	require(c.Policy != nil, "Policy is missing")
	require(c.Events == nil || c.Flights != nil, "Flights is missing, and Events needs it")
	return errors.Join(problems...)
}

// Volumes gives the number of volumes that hold a pin: those published, and
// those whose publish still waits for its mount.
func (d *Driver) Volumes() int { return len(d.cfg.Pins.List(nixstore.HolderVolume)) }
