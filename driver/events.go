package driver

import (
	"context"

	"github.com/closured/closured/driver/attributes"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/provide"
)

// The reasons of events, for machines: they never change their meaning.
const (
	// ReasonWaiting (Normal): the volume names an image that is being built elsewhere.
	// Once for each volume.
	ReasonWaiting = "ClosureWaiting"
	// ReasonRealising (Normal): the closure is not on the node, and work on it runs.
	// Once for each volume.
	ReasonRealising = "ClosureRealising"
	// ReasonProgress (Normal): that work still runs, after 1, 2, 5 and 10 minutes,
	// and then each half hour.
	ReasonProgress = "ClosureProgress"
	// ReasonReady (Normal): a volume that had one of the other events is mounted.
	ReasonReady = "ClosureReady"
	// ReasonFailed (Warning): realising or mounting failed. Kubelet tries again, and
	// the same failure of the same volume is told again only after half an hour.
	ReasonFailed = "ClosureFailed"
)

// Event is one thing that the people who look at a pod should know.
type Event struct {
	Pod     attributes.Pod // Namespace, Name and UID are there
	Warning bool
	Reason  string // one of the constants above
	Note    string // one line of at most 1,000 bytes, without credentials
}

// Events tells people about their pods. Safe for concurrent use.
type Events interface {
	// Tell hands e over. It returns at once and cannot fail: an event is help.
	Tell(e Event)
}

// Flights tells which realisations run. Safe for concurrent use.
type Flights interface {
	// Running gives them with the names of their holders, "<kind>/<name>".
	Running() []provide.Running
}

// Images tells of the images that volumes name. Safe for concurrent use.
type Images interface {
	// Waiting gives, in one line, what the image <namespace>/<name> waits for. waits
	// is false when it is there, when it is not known, and when it waits for somebody's
	// hand: that is a failure.
	Waiting(name string) (why string, waits bool)
}

// Closures reads closures that are in the store. Safe for concurrent use.
type Closures interface {
	// Closure gives root's closure.
	Closure(ctx context.Context, root nixstore.StorePath) (nixstore.Closure, error)
}
