package ledger

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// coverage counts the outcomes of commands.
type coverage map[Kind]map[Reason]int

func (c coverage) note(kind Kind, outcome Reason) {
	if c[kind] == nil {
		c[kind] = make(map[Reason]int)
	}
	c[kind][outcome]++
}

// outcomeOf names what became of a command.
func outcomeOf(event Event, r *Rejection) Reason {
	switch {
	case r != nil:
		return r.Reason
	case event.Kind() == KindRequestApproval:
		return approvalRequested
	}
	return accepted
}

// TestCoverageOfOutcomes holds what commands came to against what is declared
// that they can come to: in crafted cases, each of which has its own, and in
// random walks, which may find more. Run it with -v to see the report.
func TestCoverageOfOutcomes(t *testing.T) {
	seen := make(coverage)
	t.Run("cases", func(t *testing.T) { craftedCases(t, seen) })
	t.Run("creation", func(t *testing.T) { creations(t, seen) })
	t.Run("walks", func(t *testing.T) { randomWalks(t, seen) })
	for _, kind := range Kinds() {
		for _, outcome := range declared(kind) {
			if seen[kind][outcome] == 0 {
				t.Errorf("%s never came to %s", kind, outcome)
			}
		}
		for outcome := range seen[kind] {
			if !slices.Contains(declared(kind), outcome) && !inherited(kind, outcome) {
				t.Errorf("%s came to %s, which is not declared", kind, outcome)
			}
		}
	}
	if testing.Verbose() {
		t.Log("\n" + seen.report())
	}
}

func (c coverage) report() string {
	var b strings.Builder
	for _, kind := range Kinds() {
		fmt.Fprintf(&b, "%s\n", kind)
		outcomes := declared(kind)
		for outcome := range c[kind] {
			outcomes = appendNew(outcomes, outcome)
		}
		slices.Sort(outcomes)
		for _, outcome := range slices.Compact(outcomes) {
			fmt.Fprintf(&b, "  %7d  %s\n", c[kind][outcome], outcome)
		}
	}
	return b.String()
}

func craftedCases(t *testing.T, seen coverage) {
	s := newStage(t)
	fields := apiFields(t)
	begun := memoryOf(s.state)
	for i, c := range s.cases() {
		name := fmt.Sprintf("%s comes to %s (%d)", c.Body.Kind(), c.want, i)
		s.dry(func() {
			for _, given := range c.given {
				if r := s.play(t, given); r != nil {
					t.Errorf("%s: %s, which is given, was rejected: %v", name, given.Body.Kind(), r)
					return
				}
			}
			c.Command = s.fill(c.Command)
			before := memoryOf(s.state)
			event, r := Decide(s.state, s.attach(c.Command), s.now)
			if c.Clinic != s.state.id {
				event, r = Decide(NewState(c.Clinic, utcOnly), c.Command, s.now)
			}
			seen.note(c.Body.Kind(), outcomeOf(event, r))
			if got := outcomeOf(event, r); got != c.want {
				t.Errorf("%s: it came to %s (%v)", name, got, r)
				return
			}
			mustBeSame(t, name+": Decide changed the state", before, memoryOf(s.state))
			if r != nil {
				if err := fields.check(c.Body.Kind(), r); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				return
			}
			checkUse(t, s.state, event)
			s.accept(t, event)
			checkInvariants(t, s.world)
		})
	}
	mustBeSame(t, "the cases left changes", begun, memoryOf(s.state))
	inactive(t, s, seen)
}

// play gives a command of a case.
func (s *stage) play(t fataler, c Command) *Rejection {
	t.Helper()
	_, r := s.give(t, s.fill(c))
	return r
}

// fill completes a command.
func (w *world) fill(c Command) Command {
	full := w.command(c.Body)
	if c.Clinic == "" {
		c.Clinic = full.Clinic
	}
	if c.IdempotencyKey == "" {
		c.IdempotencyKey = full.IdempotencyKey
	}
	return c
}

// inactive gives every sample to a clinic that was deactivated.
func inactive(t *testing.T, s *stage, seen coverage) {
	w := newWorld(t)
	w.must(t, &DeactivateClinic{ReasonCode: "CLOSED"})
	for kind, c := range s.samples() {
		event, r := Decide(w.state, w.fill(c), s.now)
		want := ReasonClinicInactive
		switch kind {
		case KindCreateClinic:
			want = ReasonClinicExists
		case KindUpdateClinic:
			want = accepted
		}
		if got := outcomeOf(event, r); got != want {
			t.Errorf("%s in an inactive clinic came to %s", kind, got)
		}
		seen.note(kind, outcomeOf(event, r))
	}
}

// creations begin a journal, and end it.
func creations(t *testing.T, seen coverage) {
	create := &CreateClinic{Name: "Hillside", TimeZone: "UTC"}
	for want, edit := range map[Reason]func(*Command){
		accepted:               func(*Command) {},
		ReasonInvalidField:     func(c *Command) { c.Body = &CreateClinic{Name: "Hillside", TimeZone: "Local"} },
		ReasonSamePerson:       func(c *Command) { c.Witness = c.Actor },
		ReasonOccurredInFuture: func(c *Command) { c.OccurredAt = epoch + 1 },
		ReasonOccurredTooEarly: func(c *Command) { c.OccurredAt = epoch - testDay },
	} {
		w := emptyWorld("hillside")
		c := w.command(create)
		edit(&c)
		event, r := Decide(w.state, c, w.now)
		if got := outcomeOf(event, r); got != want {
			t.Errorf("CreateClinic came to %s (%v), want %s", got, r, want)
		}
		seen.note(KindCreateClinic, outcomeOf(event, r))
	}
	codes := policy(time1)
	codes.ReasonCodes = []ReasonCodes{{KindDeactivateClinic, []string{"OTHER"}}}
	for want, policy := range map[Reason]*SetPolicy{
		accepted:                policy(time1),
		approvalRequested:       policy(time1, Rule{"*", KindDeactivateClinic, 0, RequireApprovalBefore}),
		ReasonWitnessRequired:   policy(time1, Rule{"*", KindDeactivateClinic, 0, RequireWitness}),
		ReasonReasonCodeUnknown: codes,
	} {
		w := newWorld(t)
		w.must(t, policy)
		event, r := w.try(t, &DeactivateClinic{ReasonCode: "CLOSED"})
		if got := outcomeOf(event, r); got != want {
			t.Errorf("DeactivateClinic came to %s (%v), want %s", got, r, want)
		}
		seen.note(KindDeactivateClinic, outcomeOf(event, r))
	}
}

// randomWalks find outcomes that nobody thought of. The seeds are fixed, so
// that they find the same ones everywhere.
func randomWalks(t *testing.T, seen coverage) {
	fields, wrong := apiFields(t), make(map[string]int64)
	for seed := range int64(40) {
		w, c := newBusyWorld(t), seeded(seed)
		for range 500 {
			before := len(w.records)
			v := step(t, c, w)
			kind := v.command.Body.Kind()
			if r := v.rejected; r != nil {
				seen.note(kind, r.Reason)
				if err := fields.check(kind, r); err != nil {
					wrong[err.Error()] = seed
				}
			} else if len(w.records) > before {
				seen.note(kind, outcomeOf(w.records[len(w.records)-1].Event, nil))
			}
		}
		checkInvariants(t, w)
		checkReplay(t, w)
	}
	for complaint, seed := range wrong {
		t.Errorf("seed %d: %s", seed, complaint)
	}
}
