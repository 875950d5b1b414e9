// Package rpc serves the API: Connect, gRPC, gRPC-Web and JSON over HTTP on one
// port, and probes and metrics on another.
//
// It turns bytes into commands and queries, finds out who calls, and turns
// verdicts into answers. Each of these has one place: auth.go says who calls,
// permission.go whether they may, convert.go what a message means, errors.go
// what an error looks like on the wire.
//
// It must not decide anything about stock, which is package ledger's business,
// and must not know SQL, which is package txn's.
package rpc
