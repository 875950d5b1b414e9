package rpc

import (
	"slices"

	"github.com/stockledger/stockledger/ledger"
)

// witnesses verifies the tokens of the second persons who stand by the commands
// of one submission. A token goes no further than this file: what leaves it is
// the person's name and locations.
type witnesses struct {
	verifier *Verifier
	clinic   ledger.ClinicID
	// seen remembers the verdict on each token, since a batch may carry one
	// thousands of times.
	seen map[string]*Principal
	// locations are those that each witness is entitled to, none meaning all.
	locations map[ledger.Actor][]ledger.LocationID
}

// of returns who stands by a command, and nobody where it names no token.
// Whoever sends a token that is not their own learns only that it will not do.
func (w *witnesses) of(token string) (ledger.Actor, *ledger.Rejection) {
	if token == "" {
		return "", nil
	}
	if w.seen == nil {
		w.seen, w.locations = make(map[string]*Principal), make(map[ledger.Actor][]ledger.LocationID)
	}
	witness, ok := w.seen[token]
	if !ok {
		witness = w.verify(token)
		w.seen[token] = witness
	}
	if witness == nil {
		return "", &ledger.Rejection{
			Reason: reasonWitnessInvalid, Field: "witness_token",
			Message: "witness_token is not the current token of somebody who may stand by commands of this clinic.",
		}
	}
	known, ok := w.locations[witness.Subject]
	if ok && !slices.Equal(known, witness.Locations) {
		return "", &ledger.Rejection{
			Reason: reasonWitnessInvalid, Field: "witness_token",
			Message: "The commands come with two tokens of one witness, which name different locations.",
		}
	}
	w.locations[witness.Subject] = witness.Locations
	return witness.Subject, nil
}

// verify returns nil for a token that will not do.
func (w *witnesses) verify(token string) *Principal {
	p, err := w.verifier.Verify(token)
	if err != nil || !p.reaches(w.clinic) || !p.may(permissionWitness) {
		return nil
	}
	return p
}
