package ledger

import (
	"cmp"
	"container/heap"
)

// deadlineHeap orders a shelf's holds by deadline. Holds that closed stay in it
// until they come to the top: removal would cost more than it saves.
type deadlineHeap []deadlineItem

type deadlineItem struct {
	deadline Instant
	key      holdKey
}

func (h deadlineHeap) Len() int      { return len(h) }
func (h deadlineHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Less orders holds of one deadline by their age: which of them are given up
// must not depend on how the heap came about.
func (h deadlineHeap) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(h[i].deadline, h[j].deadline), compareHolds(h[i].key, h[j].key)) < 0
}

// compareHolds orders holds by their age.
func compareHolds(a, b holdKey) int {
	return cmp.Or(cmp.Compare(a.sequence, b.sequence), cmp.Compare(a.ordinal, b.ordinal))
}

// Push is for container/heap.
func (h *deadlineHeap) Push(x any) { *h = append(*h, x.(deadlineItem)) }

// Pop is for container/heap.
func (h *deadlineHeap) Pop() any {
	last := len(*h) - 1
	item := (*h)[last]
	*h = (*h)[:last]
	return item
}

// forget drops the closed holds that came to the top.
func (s *State) forget(shelf *shelfState) {
	for len(shelf.deadlines) > 0 {
		if _, open := s.holds[shelf.deadlines[0].key]; open {
			return
		}
		item := heap.Pop(&shelf.deadlines).(deadlineItem)
		// What closed the hold may be taken back, and with it this.
		s.onUndo(func() { heap.Push(&shelf.deadlines, item) })
	}
}

// overdue returns the shelf's open holds whose deadline lies before at, the
// longest overdue first, until enough says stop.
func (s *State) overdue(shelf *shelfState, at Instant, enough func(holdKey, *openHold) bool) []holdKey {
	var popped []deadlineItem
	var keys []holdKey
	seen := make(map[holdKey]bool)
	for len(shelf.deadlines) > 0 && shelf.deadlines[0].deadline < at {
		item := heap.Pop(&shelf.deadlines).(deadlineItem)
		popped = append(popped, item)
		hold, open := s.holds[item.key]
		// A hold that was taken back may have left its item to another one of
		// the same id, on whatever shelf.
		if !open || hold.shelf != shelf || hold.deadline != item.deadline || seen[item.key] {
			continue
		}
		seen[item.key] = true
		keys = append(keys, item.key)
		if enough(item.key, hold) {
			break
		}
	}
	for _, item := range popped {
		heap.Push(&shelf.deadlines, item)
	}
	return keys
}
