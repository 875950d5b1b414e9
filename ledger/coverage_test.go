package ledger

import (
	"fmt"
	"testing"
)

func TestWalkStats(t *testing.T) {
	stats := make(map[string]map[string]int)
	for seed := range int64(20) {
		w := newBusyWorld(t)
		c := seeded(seed)
		for range 500 {
			cmd, r := step(t, c, w)
			k := cmd.Body.Kind().String()
			if stats[k] == nil {
				stats[k] = make(map[string]int)
			}
			if r == nil {
				last := w.records[len(w.records)-1].Event
				if last.Kind() == KindRequestApproval {
					stats[k]["REQ"]++
				} else {
					stats[k]["ok"]++
				}
			} else {
				stats[k][string(r.Reason)]++
			}
			checkInvariants(t, w)
		}
	}
	for _, k := range Kinds() {
		fmt.Println(k, stats[k.String()])
	}
}
