package ledger

import "container/heap"

// deadlineHeap orders a shelf's holds by deadline. Holds that closed stay in it
// until they come to the top: removal would cost more than it saves.
type deadlineHeap []deadlineItem

type deadlineItem struct {
	deadline Instant
	key      holdKey
}

func (h deadlineHeap) Len() int           { return len(h) }
func (h deadlineHeap) Less(i, j int) bool { return h[i].deadline < h[j].deadline }
func (h deadlineHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push is for container/heap.
func (h *deadlineHeap) Push(x any) { *h = append(*h, x.(deadlineItem)) }

// Pop is for container/heap.
func (h *deadlineHeap) Pop() any {
	last := len(*h) - 1
	item := (*h)[last]
	*h = (*h)[:last]
	return item
}

// overdue returns the shelf's open holds whose deadline lies before at, the
// longest overdue first, until enough says stop.
func (s *State) overdue(shelf *shelfState, at Instant, enough func(*openHold) bool) []holdKey {
	var found []deadlineItem
	seen := make(map[holdKey]bool)
	for len(shelf.deadlines) > 0 && shelf.deadlines[0].deadline < at {
		item := heap.Pop(&shelf.deadlines).(deadlineItem)
		hold, open := s.holds[item.key]
		if !open || hold.deadline != item.deadline || seen[item.key] {
			continue
		}
		seen[item.key] = true
		found = append(found, item)
		if enough(hold) {
			break
		}
	}
	keys := make([]holdKey, len(found))
	for i, item := range found {
		heap.Push(&shelf.deadlines, item)
		keys[i] = item.key
	}
	return keys
}
