package main

import (
	"context"
	"errors"
	"log/slog"

	"k8s.io/klog/v2"

	"github.com/closured/closured/driver"
	"github.com/closured/closured/internal/kube"
	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/internal/niximages"
)

// cluster is the API server and what is done with it; the zero value is none.
type cluster struct {
	client   *kube.Client
	recorder *kube.Recorder
	taint    *kube.Untainter // nil without --startup-taint
	images   *niximages.Images
}

// errNotRegistered keeps the start-up taint on the node.
var errNotRegistered = errors.New("kubelet has not registered the driver")

// openKubernetes finds the API server. Only a kubeconfig that was named and does
// not work is an error: the agent needs no API server.
func (a *agent) openKubernetes(context.Context) error {
	log := a.component("kubernetes")
	klog.SetSlogLogger(log) // client-go has no other way to speak
	client, err := kube.Open(kube.Config{Kubeconfig: a.cfg.kubeconfig, UserAgent: "closured/" + version})
	switch {
	case err == nil:
	case a.cfg.kubeconfig != "":
		return err
	case errors.Is(err, kube.ErrNoCluster):
		log.Info("there is no Kubernetes: no events, no images by name, and pods say hostUsers themselves")
		return nil
	default:
		log.Error("going on without Kubernetes", slog.String(logkey.Error, err.Error()))
		return nil
	}
	a.cluster.client = client
	a.cluster.recorder, err = kube.NewRecorder(kube.RecorderConfig{Client: client, Node: a.cfg.nodeName, Log: log})
	if err != nil {
		return err
	}
	a.cluster.images, err = niximages.New(niximages.Config{API: client.NixImages(), Log: a.component("niximages")})
	if err != nil || a.cfg.startupTaint == "" {
		return err
	}
	a.cluster.taint, err = kube.NewUntainter(kube.UntainterConfig{
		Client: client, Node: a.cfg.nodeName, Key: a.cfg.startupTaint, Ready: a.usable, Log: log,
	})
	return err
}

// configure gives the driver what it may use of the cluster.
func (c cluster) configure(cfg *driver.Config) {
	if c.client == nil {
		return // an interface must be nil, and not hold a nil
	}
	cfg.HostUsers, cfg.Events = c.client, events{c.recorder}
	cfg.Images = c.images
}

// parts gives what has to run.
func (c cluster) parts() []func(context.Context) error {
	var parts []func(context.Context) error
	if c.recorder != nil {
		parts = append(parts, c.recorder.Run)
	}
	if c.images != nil {
		parts = append(parts, c.images.Run)
	}
	if c.taint != nil {
		parts = append(parts, c.taint.Run)
	}
	return parts
}

// usable tells why pods with volumes must not be placed on the node yet.
func (a *agent) usable() error {
	if err := a.ready(); err != nil {
		return err
	}
	if !a.server.Registered() {
		return errNotRegistered
	}
	return nil
}

// events brings the driver's events to the API server.
type events struct{ recorder *kube.Recorder }

// Tell implements driver.Events.
func (e events) Tell(event driver.Event) {
	e.recorder.Record(kube.Event{
		Namespace: event.Pod.Namespace, Pod: event.Pod.Name, UID: event.Pod.UID,
		Warning: event.Warning, Reason: event.Reason, Note: event.Note,
	})
}
