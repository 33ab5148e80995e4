package jail

// headBuffer keeps the first limit bytes and calls full once when there are
// more. It swallows the rest, so that its writer never blocks or fails.
type headBuffer struct {
	data  []byte
	limit int
	full  func()
	over  bool
}

func (b *headBuffer) Write(p []byte) (int, error) {
	room := b.limit - len(b.data)
	if len(p) <= room {
		b.data = append(b.data, p...)
		return len(p), nil
	}
	b.data = append(b.data, p[:room]...)
	if !b.over {
		b.over = true
		b.full()
	}
	return len(p), nil
}

// tailBuffer keeps the last limit bytes: programs say last why they fail.
type tailBuffer struct {
	data  []byte // at most twice the limit
	limit int
}

func (b *tailBuffer) Write(p []byte) (int, error) {
	n := len(p)
	if len(p) > b.limit {
		p = p[len(p)-b.limit:]
	}
	if len(b.data)+len(p) > 2*b.limit {
		keep := b.bytes()
		b.data = append(b.data[:0], keep...)
	}
	b.data = append(b.data, p...)
	return n, nil
}

func (b *tailBuffer) bytes() []byte {
	return b.data[max(0, len(b.data)-b.limit):]
}
