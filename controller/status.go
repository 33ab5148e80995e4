package controller

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/closured/closured/api/v1alpha1"
)

// Status gives the status that the object shall have, after the plan's Jobs were
// acted on. It is equal to the present one when there is nothing to write.
func (p *Plan) Status() (v1alpha1.NixImageStatus, error) {
	status := p.image.Status.DeepCopy()
	status.ObservedGeneration = p.image.Generation
	status.Resolved = p.results()
	if images := p.publishable(); images != nil {
		if err := p.publish(status, images); err != nil {
			return v1alpha1.NixImageStatus{}, err
		}
	}
	if err := p.trimHistory(status); err != nil {
		return v1alpha1.NixImageStatus{}, err
	}
	p.setConditions(status)
	return *status, nil
}

// publishable gives the images to serve from now on, or nil to leave things as
// they are: while a system may still be done, since each publication changes the
// digest; and while it would take an image away that is served now.
func (p *Plan) publishable() []v1alpha1.SystemImage {
	var images []v1alpha1.SystemImage
	for _, s := range p.systems {
		served := slices.ContainsFunc(p.image.Status.Images, func(i v1alpha1.SystemImage) bool { return i.System == s.system })
		switch {
		case s.progressing(), s.resolved == nil && served:
			return nil
		case s.resolved != nil:
			images = append(images, s.resolved.SystemImage)
		}
	}
	return images
}

// publish makes images what the reference leads to.
func (p *Plan) publish(status *v1alpha1.NixImageStatus, images []v1alpha1.SystemImage) error {
	digest, err := Digest(images)
	if err != nil {
		return err
	}
	tag := p.image.Spec.Tag
	status.Reference = fmt.Sprintf("%s/image/%s/%s:%s", p.rules.RegistryHost, p.image.Namespace, p.image.Name, tag)
	status.Digest, status.Images, status.Size = digest, images, size(images)
	if h := status.History; len(h) > 0 && h[0].Digest == digest && h[0].Tag == tag {
		h[0].Images = images // the node, or a root with other paths to the same bytes
		return nil
	}
	status.History = append([]v1alpha1.Version{{
		Digest: digest, Tag: tag, Generation: p.image.Generation, Time: metav1.NewTime(p.now).Rfc3339Copy(),
		Images: images, Config: *p.image.Spec.Config.DeepCopy(),
	}}, slices.DeleteFunc(status.History, func(v v1alpha1.Version) bool { return v.Digest == digest && v.Tag == tag })...)
	return nil
}

// historyMax bounds the history as JSON, in bytes: etcd takes no object of more
// than 1.5 MiB, and an object that cannot grow could publish nothing any more.
const historyMax = 512 << 10

// trimHistory forgets the versions that are too many, or too much. The newest,
// which is served, stays.
func (p *Plan) trimHistory(status *v1alpha1.NixImageStatus) error {
	const defaultLimit = 3
	limit := defaultLimit
	if l := p.image.Spec.HistoryLimit; l != nil {
		limit = int(*l)
	}
	if len(status.History) > limit+1 {
		status.History = status.History[:limit+1]
	}
	length := 0
	for i := range status.History {
		data, err := json.Marshal(&status.History[i])
		if err != nil {
			return fmt.Errorf("measuring the history of %s/%s: %w", p.image.Namespace, p.image.Name, err)
		}
		if length += len(data); length > historyMax && i > 0 {
			status.History = status.History[:i]
			break
		}
	}
	return nil
}

// size gives the greatest closure's size for people.
func size(images []v1alpha1.SystemImage) string {
	greatest := int64(0)
	for _, i := range images {
		n, err := strconv.ParseInt(i.ClosureSize, 10, 64)
		if err == nil {
			greatest = max(greatest, n)
		}
	}
	return humanSize(greatest)
}

// humanSize writes a number of bytes with one digit after the point.
func humanSize(n int64) string {
	const step = 1024
	if n < step {
		return strconv.FormatInt(n, 10) + " B"
	}
	value, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	unit := 0
	for value >= step && unit < len(units)-1 {
		value /= step
		unit++
	}
	return strconv.FormatFloat(value, 'f', 1, 64) + " " + units[unit]
}
