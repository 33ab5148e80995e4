package niximages

import "runtime"

// held gives how many bytes of the heap objects keep.
func held(kept []*object) uint64 {
	with := heap()
	runtime.KeepAlive(kept)
	clear(kept)
	return with - min(with, heap())
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
