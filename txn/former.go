package txn

import (
	"github.com/stockledger/stockledger/ledger"
)

// unit is what is accepted or rejected as one: a single command, or the
// commands of a linked batch.
type unit struct {
	submission *submission
	first      int // index of its first command in the submission
	commands   []ledger.Command
}

// group is a set of units that are executed in one transaction.
type group struct {
	parts    []part
	commands int
}

// part is one clinic's units in a group, in their order.
type part struct {
	clinic ledger.ClinicID
	units  []*unit
}

// formerLimits bound what waits and what is executed together.
type formerLimits struct {
	groupCommands int // commands in a group
	queueCommands int // commands waiting for one clinic
	inFlight      int // groups in execution at a time
}

// former decides which units are executed together and when. It is a step
// function: arrive and finish are its events, and the groups that they return
// are to be started at once. It has no clock and no goroutine.
//
// A group starts as soon as nothing is in execution; another one beside it only
// when it would be full, since one large group costs less than two small ones.
// A clinic is in one group at a time. Clinics with interactive work go first,
// and within a clinic interactive work goes before bulk work, so an import
// yields to a dispense after at most one group.
type former struct {
	limits   formerLimits
	clinics  map[ledger.ClinicID]*clinicQueue
	urgent   []*clinicQueue // ready clinics with interactive work, in order of arrival
	patient  []*clinicQueue // ready clinics with bulk work only
	ready    int            // commands waiting in ready clinics
	inFlight int
}

type clinicQueue struct {
	clinic      ledger.ClinicID
	interactive []*unit
	bulk        []*unit
	commands    int  // waiting
	executing   bool // the clinic is in a group
	listed      listing
}

// listing says in which of the former's lists a clinic stands.
type listing int

const (
	unlisted listing = iota
	listedUrgent
	listedPatient
)

func newFormer(limits formerLimits) *former {
	return &former{limits: limits, clinics: make(map[ledger.ClinicID]*clinicQueue)}
}

// arrive takes units of one clinic in, or refuses them all because too many
// commands wait for the clinic already.
func (f *former) arrive(clinic ledger.ClinicID, units []*unit, bulk bool) (start []*group, accepted bool) {
	queue := f.clinics[clinic]
	if queue == nil {
		queue = &clinicQueue{clinic: clinic}
		f.clinics[clinic] = queue
	}
	commands := countCommands(units)
	if queue.commands > 0 && queue.commands+commands > f.limits.queueCommands {
		return nil, false
	}
	queue.commands += commands
	if bulk {
		queue.bulk = append(queue.bulk, units...)
	} else {
		queue.interactive = append(queue.interactive, units...)
	}
	if !queue.executing {
		f.ready += commands
		f.list(queue)
	}
	return f.form(), true
}

// finish tells that a group has ended and its callers are answered.
func (f *former) finish(g *group) []*group {
	f.inFlight--
	for _, p := range g.parts {
		queue := f.clinics[p.clinic]
		queue.executing = false
		if queue.commands == 0 {
			delete(f.clinics, p.clinic)
			continue
		}
		f.ready += queue.commands
		f.list(queue)
	}
	return f.form()
}

// waiting counts the commands that wait.
func (f *former) waiting() int {
	n := 0
	for _, queue := range f.clinics {
		n += queue.commands
	}
	return n
}

func (f *former) list(queue *clinicQueue) {
	switch {
	case len(queue.interactive) > 0 && queue.listed != listedUrgent:
		// Its place in the patient list, if any, is skipped later.
		queue.listed = listedUrgent
		f.urgent = append(f.urgent, queue)
	case len(queue.interactive) == 0 && queue.listed == unlisted:
		queue.listed = listedPatient
		f.patient = append(f.patient, queue)
	}
}

func (f *former) form() []*group {
	var start []*group
	for f.ready > 0 && (f.inFlight == 0 || f.inFlight < f.limits.inFlight && f.ready >= f.limits.groupCommands) {
		g := f.gather()
		f.inFlight++
		start = append(start, g)
	}
	return start
}

// gather makes a group of what is ready. Every clinic that fits gets its share
// before one gets more.
func (f *former) gather() *group {
	g := &group{}
	share := max(1, f.limits.groupCommands/max(1, len(f.urgent)+len(f.patient)))
	f.urgent = f.gatherFrom(f.urgent, listedUrgent, g, share)
	f.patient = f.gatherFrom(f.patient, listedPatient, g, share)
	for i := range g.parts {
		p := &g.parts[i]
		f.fill(g, p, f.clinics[p.clinic], f.limits.groupCommands)
	}
	for _, p := range g.parts {
		// What is left of these clinics waits until the group has ended.
		f.ready -= f.clinics[p.clinic].commands
	}
	return g
}

// gatherFrom takes up to share commands from each clinic of a list and returns
// the clinics that did not come into the group.
func (f *former) gatherFrom(list []*clinicQueue, as listing, g *group, share int) []*clinicQueue {
	for i, queue := range list {
		if queue.listed != as {
			continue
		}
		if g.commands >= f.limits.groupCommands {
			return list[i:]
		}
		queue.listed = unlisted
		queue.executing = true
		g.parts = append(g.parts, part{clinic: queue.clinic})
		f.fill(g, &g.parts[len(g.parts)-1], queue, share)
	}
	return nil
}

// fill moves units from a queue into a part while the part has fewer than limit
// commands and the group has room.
func (f *former) fill(g *group, p *part, queue *clinicQueue, limit int) {
	taken := countCommands(p.units)
	for taken < limit && g.commands < f.limits.groupCommands && queue.commands > 0 {
		lane := &queue.interactive
		if len(*lane) == 0 {
			lane = &queue.bulk
		}
		w := (*lane)[0]
		(*lane)[0] = nil
		*lane = (*lane)[1:]
		n := len(w.commands)
		queue.commands -= n
		f.ready -= n
		taken += n
		g.commands += n
		p.units = append(p.units, w)
	}
}

func countCommands(units []*unit) int {
	n := 0
	for _, w := range units {
		n += len(w.commands)
	}
	return n
}
