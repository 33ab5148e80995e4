package drivertest

import (
	"slices"
	"sync"
	"time"

	"github.com/closured/closured/driver"
)

// Events is a driver.Events that keeps what it is told.
type Events struct {
	mu   sync.Mutex // guards told
	told []Told
}

// Told is an event and when it came.
type Told struct {
	driver.Event

	At time.Time
}

// Tell keeps e.
func (e *Events) Tell(event driver.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.told = append(e.told, Told{event, time.Now()})
}

// All gives the events in the order in which they came.
func (e *Events) All() []Told {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.told)
}
