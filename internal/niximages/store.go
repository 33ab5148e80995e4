package niximages

import (
	"fmt"
	"log/slog"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/internal/logkey"
)

// store is where the reflector puts objects (cache.TransformingStore).
type store struct{ images *Images }

var _ cache.TransformingStore = store{}

// Add keeps a new object.
func (s store) Add(obj any) error { return s.Update(obj) }

// Update keeps an object.
func (s store) Update(obj any) error {
	n, err := niximage(obj)
	if err != nil {
		return err
	}
	kept := compact(n)
	s.images.change(func(objects map[string]*object) { objects[key(n.Namespace, n.Name)] = kept })
	return nil
}

// Delete forgets an object.
func (s store) Delete(obj any) error {
	n, err := niximage(obj)
	if err != nil {
		return err
	}
	s.images.change(func(objects map[string]*object) { delete(objects, key(n.Namespace, n.Name)) })
	return nil
}

// Replace keeps exactly these.
func (s store) Replace(list []any, _ string) error {
	all := make(map[string]*object, len(list))
	for _, obj := range list {
		n, err := niximage(obj)
		if err != nil {
			return err
		}
		all[key(n.Namespace, n.Name)] = compact(n)
	}
	i := s.images
	i.mu.RLock()
	first := !i.seen
	i.mu.RUnlock()
	i.change(func(map[string]*object) { i.objects, i.seen, i.absent = all, true, 0 })
	if first {
		i.log.Info("nix images are known", slog.Int(logkey.Count, len(all)))
	}
	return nil
}

// Resync does nothing: there is nobody to tell again.
func (s store) Resync() error { return nil }

// Transformer drops what nobody here reads, so that a list of all objects does not
// lie in memory with it.
func (s store) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		n, err := niximage(obj)
		if err != nil {
			return nil, err
		}
		n.ObjectMeta = metav1.ObjectMeta{
			Namespace: n.Namespace, Name: n.Name, Generation: n.Generation, ResourceVersion: n.ResourceVersion,
		}
		return n, nil
	}
}

func niximage(obj any) (*v1alpha1.NixImage, error) {
	n, ok := obj.(*v1alpha1.NixImage)
	if !ok {
		return nil, fmt.Errorf("following NixImages: a %T came", obj)
	}
	return n, nil
}

func key(namespace, name string) string { return namespace + "/" + name }
