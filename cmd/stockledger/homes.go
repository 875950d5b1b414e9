package main

import (
	"context"
	"sync"
	"time"

	"github.com/stockledger/stockledger/cluster"
	"github.com/stockledger/stockledger/ledger"
)

// homesAreCounted is how old a count of homes may be: there can be many clinics.
const homesAreCounted = 5 * time.Second

// homeCounter counts the clinics that each node is home to.
type homeCounter struct {
	list func(ctx context.Context, now time.Time, after ledger.ClinicID, limit int) ([]ledger.ClinicID, error)
	home func(ledger.ClinicID) (cluster.Node, bool)

	mu     sync.Mutex
	at     time.Time
	counts map[string]int
}

// count returns the number of clinics by the ids of their homes.
func (h *homeCounter) count(ctx context.Context) (map[string]int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if h.counts != nil && now.Sub(h.at) < homesAreCounted {
		return h.counts, nil
	}
	const page = 1000
	counts := make(map[string]int)
	for after := ledger.ClinicID(""); ; {
		clinics, err := h.list(ctx, now, after, page)
		if err != nil {
			return nil, err
		}
		for _, clinic := range clinics {
			after = clinic
			if home, ok := h.home(clinic); ok {
				counts[home.ID]++
			}
		}
		if len(clinics) < page {
			break
		}
	}
	h.at, h.counts = now, counts
	return counts, nil
}
