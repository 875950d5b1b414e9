package main

import (
	"strings"
)

var (
	baselineTables = []string{"bench_balances", "bench_entries", "bench_events"}
	ledgerTables   = []string{"heads", "journal", "entries", "stock", "holds", "documents"}
)

// footprint is what tables hold.
type footprint struct {
	rows  int64
	bytes int64 // on disk with indexes; 0 where the server does not say
}

func (b *bench) footprint(tables []string) (footprint, error) {
	var f footprint
	for _, table := range tables {
		var rows int64
		if err := b.pool.QueryRow(b.ctx, "SELECT count(*) FROM "+table).Scan(&rows); err != nil {
			return f, err
		}
		f.rows += rows
		if !strings.HasPrefix(b.version, "PostgreSQL") {
			continue
		}
		var bytes int64
		if err := b.pool.QueryRow(b.ctx, "SELECT pg_total_relation_size($1::regclass)", table).Scan(&bytes); err != nil {
			return f, err
		}
		f.bytes += bytes
	}
	return f, nil
}
