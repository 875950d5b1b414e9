package txn

import (
	"slices"
	"sync"
)

// flights are the loads of a cache that are under way, by key: a key is in one
// of them at a time, and one flight loads all keys of a request that nobody else
// loads.
type flights struct {
	mu    sync.Mutex
	under map[cacheKey]*flight
}

// flight is one load. loaded and err may be read once it has landed.
type flight struct {
	keys   []cacheKey
	landed chan struct{}
	loaded map[cacheKey]*kept
	err    error
}

// within reports whether a flight is for some keys and no others.
func (f *flight) within(keys []cacheKey) bool {
	for _, k := range f.keys {
		if !slices.Contains(keys, k) {
			return false
		}
	}
	return true
}

// board returns the flights that some keys are in, each once, and a new one of
// the caller's own, to be landed, for those that are in none; nil where all are.
func (f *flights) board(keys []cacheKey) (own *flight, others []*flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := make(map[*flight]bool)
	for _, k := range keys {
		under := f.under[k]
		if under == nil {
			if own == nil {
				own = &flight{landed: make(chan struct{}), loaded: make(map[cacheKey]*kept)}
				seen[own] = true
			}
			own.keys = append(own.keys, k)
			f.under[k] = own
			continue
		}
		if !seen[under] {
			seen[under] = true
			others = append(others, under)
		}
	}
	return own, others
}

// land ends a flight.
func (f *flights) land(own *flight) {
	f.mu.Lock()
	for _, k := range own.keys {
		delete(f.under, k)
	}
	f.mu.Unlock()
	close(own.landed)
}
