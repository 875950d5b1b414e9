package txn

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/stockledger/stockledger/ledger"
)

// formerModel watches a former from outside.
type formerModel struct {
	t         *rapid.T
	former    *former
	executing map[ledger.ClinicID]bool
	inFlight  []*group
	waiting   map[ledger.ClinicID][2][]int // ids of waiting units, interactive and bulk
	nextID    int
}

func (m *formerModel) arrive(clinic ledger.ClinicID, bulk bool, sizes []int) {
	units := make([]*unit, len(sizes))
	lane := 0
	if bulk {
		lane = 1
	}
	lanes := m.waiting[clinic]
	for i, size := range sizes {
		units[i] = &unit{first: m.nextID, commands: make([]ledger.Command, size)}
		m.nextID++
	}
	before := m.former.waiting()
	start, accepted := m.former.arrive(clinic, units, bulk)
	if !accepted {
		if before != m.former.waiting() || len(start) > 0 {
			m.t.Fatalf("a refused arrival left a trace")
		}
		if before == 0 {
			m.t.Fatalf("an arrival was refused by an empty former")
		}
		return
	}
	for _, w := range units {
		lanes[lane] = append(lanes[lane], w.first)
	}
	m.waiting[clinic] = lanes
	m.started(start)
}

func (m *formerModel) started(groups []*group) {
	for _, g := range groups {
		m.inFlight = append(m.inFlight, g)
		commands := 0
		for _, p := range g.parts {
			if m.executing[p.clinic] {
				m.t.Fatalf("clinic %s is in two groups", p.clinic)
			}
			m.executing[p.clinic] = true
			if len(p.units) == 0 {
				m.t.Fatalf("clinic %s is in a group without work", p.clinic)
			}
			for _, w := range p.units {
				commands += len(w.commands)
				m.takeNext(p.clinic, w.first)
			}
		}
		if commands != g.commands || commands >= m.former.limits.groupCommands+5 {
			m.t.Fatalf("a group says %d commands and has %d", g.commands, commands)
		}
	}
}

// takeNext checks that a work is the next one of its clinic: interactive units
// first, each lane in order.
func (m *formerModel) takeNext(clinic ledger.ClinicID, id int) {
	lanes := m.waiting[clinic]
	lane := 0
	if len(lanes[0]) == 0 {
		lane = 1
	}
	if len(lanes[lane]) == 0 || lanes[lane][0] != id {
		m.t.Fatalf("work %d of clinic %s is not the next of %v", id, clinic, lanes)
	}
	lanes[lane] = lanes[lane][1:]
	m.waiting[clinic] = lanes
}

func (m *formerModel) finish(i int) {
	g := m.inFlight[i]
	m.inFlight = append(m.inFlight[:i:i], m.inFlight[i+1:]...)
	for _, p := range g.parts {
		m.executing[p.clinic] = false
	}
	m.started(m.former.finish(g))
}

// check looks for work that could run and does not.
func (m *formerModel) check() {
	ready := 0
	for clinic, lanes := range m.waiting {
		if !m.executing[clinic] {
			ready += len(lanes[0]) + len(lanes[1])
		}
	}
	if ready > 0 && len(m.inFlight) == 0 {
		m.t.Fatalf("%d units are ready and nothing is in execution", ready)
	}
	if len(m.inFlight) > m.former.limits.inFlight {
		m.t.Fatalf("%d groups are in flight", len(m.inFlight))
	}
}

func TestFormerLosesAndReordersNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := formerLimits{
			groupCommands: rapid.IntRange(1, 12).Draw(t, "group"),
			queueCommands: rapid.IntRange(1, 30).Draw(t, "queue"),
			inFlight:      rapid.IntRange(1, 3).Draw(t, "in flight"),
		}
		m := &formerModel{t: t, former: newFormer(limits), executing: make(map[ledger.ClinicID]bool), waiting: make(map[ledger.ClinicID][2][]int)}
		for range rapid.IntRange(1, 80).Draw(t, "events") {
			if len(m.inFlight) > 0 && rapid.Bool().Draw(t, "finish") {
				m.finish(rapid.IntRange(0, len(m.inFlight)-1).Draw(t, "which"))
			} else {
				clinic := ledger.ClinicID(fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "clinic")))
				m.arrive(clinic, rapid.Bool().Draw(t, "bulk"), rapid.SliceOfN(rapid.IntRange(1, 5), 1, 6).Draw(t, "units"))
			}
			m.check()
		}
		for len(m.inFlight) > 0 {
			m.finish(0)
			m.check()
		}
		if left := m.former.waiting(); left != 0 || len(m.former.clinics) != 0 || m.former.ready != 0 {
			t.Fatalf("%d commands of %d clinics are left, %d ready", left, len(m.former.clinics), m.former.ready)
		}
	})
}
