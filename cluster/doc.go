// Package cluster makes several nodes one system: it knows which nodes there
// are, elects the one that runs the background jobs, and runs them there.
//
// etcd, embedded or external, holds who is there and who leads. What the jobs did
// is kept in the database, under an epoch that is raised with each election: a
// leader that was cut off cannot record anything, whatever it believes.
//
// It must not know SQL, and changes stock only by commands, which are package
// txn's business. Nothing that a caller of the API waits for depends on etcd.
package cluster
