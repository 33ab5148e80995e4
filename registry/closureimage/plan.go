package closureimage

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry/closureimage/layering"
)

// storeLayers is how many layers the store's paths get; the top is one more. With a
// hundred in all an image can still be built upon (overlayfs and Docker end at 127 or so).
const storeLayers = 99

// plan says which paths stand in which layer of the store.
type plan struct {
	layers [][]item
	keys   []key // names of the layers in the cache
}

// planOf cuts the closure of an image.
func planOf(c nixstore.Closure, form Form, compression Compression) (*plan, error) {
	infos := make(map[string]nixstore.PathInfo, len(c.Paths))
	paths := make([]layering.Path, 0, len(c.Paths))
	for _, info := range c.Paths {
		infos[info.Path.BaseName()] = info
		p := layering.Path{Name: info.Path.BaseName(), NarSize: info.NarSize}
		for _, r := range info.References {
			p.References = append(p.References, r.BaseName())
		}
		paths = append(paths, p)
	}
	layers, err := layering.Cut(paths, c.Root.BaseName(), storeLayers)
	if err != nil {
		return nil, fmt.Errorf("cutting the closure of %s into layers: %w", c.Root, err)
	}
	p := &plan{}
	for _, l := range layers {
		var items []item
		var text strings.Builder
		fmt.Fprintf(&text, "layer %d %q %s\n", formatVersion, form.folder(), compression)
		for _, name := range l.Paths {
			info := infos[name]
			items = append(items, item{info.Path, info.NarSize})
			// Neither holds a blank or a line break: the one by its grammar, the other is base 64.
			fmt.Fprintf(&text, "%s %q\n", name, info.NarHash)
		}
		p.layers = append(p.layers, items)
		p.keys = append(p.keys, sha256.Sum256([]byte(text.String())))
	}
	return p, nil
}

// size gives a layer's bytes, about.
func (p *plan) size(layer int) int64 {
	var sum int64
	for _, i := range p.layers[layer] {
		sum += i.narSize
	}
	return sum
}
