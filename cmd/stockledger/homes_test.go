package main

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stockledger/stockledger/cluster"
	"github.com/stockledger/stockledger/ledger"
)

func TestHomesAreCounted(t *testing.T) {
	t.Parallel()
	var all []ledger.ClinicID
	for i := range 2500 {
		all = append(all, ledger.ClinicID(fmt.Sprintf("clinic-%04d", i)))
	}
	homes := cluster.NewHomes([]cluster.Node{{ID: "a1", Name: "a", Peer: "x"}, {ID: "b1", Name: "b", Peer: "y"}}, map[ledger.ClinicID]string{"clinic-0000": "b"}, nil)
	lists := 0
	h := &homeCounter{home: homes.Of, list: func(_ context.Context, _ time.Time, after ledger.ClinicID, limit int) (page []ledger.ClinicID, err error) {
		lists++
		for _, id := range all {
			if id > after && len(page) < limit {
				page = append(page, id)
			}
		}
		return page, nil
	}}
	first, err := h.count(t.Context())
	if err != nil || first["a1"]+first["b1"] != len(all) || first["a1"] < 1000 || first["b1"] < 1000 || len(first) != 2 {
		t.Errorf("the homes are %v, %v", first, err)
	}
	if _, err := h.count(t.Context()); err != nil || lists != 3 {
		t.Errorf("the clinics were listed %d times in pages, want 3: %v", lists, err)
	}
	away := errors.New("away")
	h.list = func(context.Context, time.Time, ledger.ClinicID, int) ([]ledger.ClinicID, error) { return nil, away }
	h.at = time.Now().Add(-time.Hour)
	if _, err := h.count(t.Context()); !errors.Is(err, away) {
		t.Errorf("of a database that is away it says %v", err)
	}
}
