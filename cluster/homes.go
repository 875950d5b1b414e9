package cluster

import (
	"maps"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/stockledger/stockledger/ledger"
)

// Homes tell which node executes whose commands.
type Homes struct {
	nodes []Node // those that can be homes, by name and id
	seeds []uint64
	pins  map[ledger.ClinicID]string // to nodes' names
	// regions have nodes; regionOf tells a clinic's.
	regions  map[string]bool
	regionOf func(ledger.ClinicID) string
}

// NewHomes shares clinics out among the nodes that others can reach: those of a
// clinic's region where there are any. regionOf may be nil: regions do not
// matter.
func NewHomes(nodes []Node, pins map[ledger.ClinicID]string, regionOf func(ledger.ClinicID) string) *Homes {
	if regionOf == nil {
		regionOf = func(ledger.ClinicID) string { return "" }
	}
	h := &Homes{pins: pins, regions: make(map[string]bool), regionOf: regionOf}
	for _, n := range nodes {
		if n.Peer != "" {
			h.nodes = append(h.nodes, n)
		}
	}
	slices.SortFunc(h.nodes, func(a, b Node) int {
		if byName := strings.Compare(a.Name, b.Name); byName != 0 {
			return byName
		}
		return strings.Compare(a.ID, b.ID)
	})
	for _, n := range h.nodes {
		h.seeds = append(h.seeds, xxhash.Sum64String(n.Name))
		h.regions[n.Region] = true
	}
	return h
}

// Of returns the clinic's home: the node that it is pinned to, or else the one
// with the highest score for it (rendezvous hashing) of its region, or of all
// where that has none. So a node that comes takes a share of each other's
// clinics, one that goes gives its own to all, and nothing else moves. It reports
// false where there is no node.
func (h *Homes) Of(clinic ledger.ClinicID) (Node, bool) {
	if pin, ok := h.pins[clinic]; ok {
		for _, n := range h.nodes {
			if n.Name == pin {
				return n, true
			}
		}
	}
	if len(h.nodes) == 0 {
		return Node{}, false
	}
	best, highest := -1, uint64(0)
	hash, region := xxhash.Sum64String(string(clinic)), h.regionOf(clinic)
	anywhere := region == "" || !h.regions[region]
	for i, seed := range h.seeds {
		if !anywhere && h.nodes[i].Region != region {
			continue
		}
		if score := mix(hash ^ seed); best < 0 || score > highest {
			best, highest = i, score
		}
	}
	return h.nodes[best], true
}

// same reports whether every clinic has the same home in both.
func (h *Homes) same(other *Homes) bool {
	return maps.Equal(h.pins, other.pins) && slices.EqualFunc(h.nodes, other.nodes, func(a, b Node) bool {
		return a.ID == b.ID && a.Name == b.Name && a.Peer == b.Peer && a.Region == b.Region
	})
}

// mix makes every bit of a number depend on every other: the finalizer of
// MurmurHash3.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
