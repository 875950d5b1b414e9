// Package ledger is the pure core of stockledger: what the words mean, which
// commands are allowed, and what an accepted one does to the stock.
//
// Two functions are its heart. [Decide] judges a command against a clinic's
// state by the rules of today and answers with an event or a [Rejection].
// [Evolve] says what an event means, for ever: the entries it posts and the
// state after it. Replay, execution, reconciliation and the property tests all
// run these two, so they cannot disagree.
//
// The package has no clock, no randomness, no input or output, no SQL and no
// wire format but its own: times, ids and state come in as arguments. It must
// never import anything that does.
package ledger
