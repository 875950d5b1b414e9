package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/loadtest/node"
)

// distanceVariable makes this program a distance, by where it listens, where that
// leads and how long the way is: "127.0.0.1:1234 127.0.0.1:5432 500µs".
const distanceVariable = "BENCH_DISTANCE_ROUTE"

// distance stands before an address and passes everything on so much later, in
// both directions, as the way to another zone does.
type distance struct {
	listener net.Listener
	to       string
	oneWay   time.Duration
}

// openDistance returns where the address is reached from afar, until stop. It is
// another process, so that its waiting takes nothing from the callers in this one.
func openDistance(ctx context.Context, to string, oneWay time.Duration) (at string, stop func(), err error) {
	if at, err = node.FreeAddress(); err != nil {
		return "", nil, err
	}
	stop, err = startAgain(ctx, fmt.Sprintf("%s=%s %s %s", distanceVariable, at, to, oneWay), at)
	return at, stop, err
}

func serveDistance(ctx context.Context, route string) error {
	var at, to, oneWay string
	if _, err := fmt.Sscan(route, &at, &to, &oneWay); err != nil {
		return fmt.Errorf("%s=%q: %w", distanceVariable, route, err)
	}
	long, err := time.ParseDuration(oneWay)
	if err != nil {
		return err
	}
	// What sleeps exactly keeps a place among those that run for some time.
	runtime.GOMAXPROCS(64)
	listener, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	(&distance{listener: listener, to: to, oneWay: long}).serve()
	return nil
}

func (d *distance) serve() {
	for {
		near, err := d.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", d.to)
		if err != nil {
			_ = near.Close()
			continue
		}
		closeBoth := sync.OnceFunc(func() {
			_ = near.Close()
			_ = far.Close()
		})
		go d.carry(near, far, closeBoth)
		go d.carry(far, near, closeBoth)
	}
}

// parcel is what was read at once.
type parcel struct {
	due   time.Time
	bytes []byte
}

// parcelsUnderWay bounds what one direction of a connection may carry, as a
// network's window does.
const parcelsUnderWay = 256

func (d *distance) carry(from io.Reader, to io.Writer, end func()) {
	defer end()
	parcels := make(chan parcel, parcelsUnderWay)
	go func() {
		defer close(parcels)
		buffer := make([]byte, 64<<10)
		for {
			n, err := from.Read(buffer)
			if n > 0 {
				parcels <- parcel{time.Now().Add(d.oneWay), bytes.Clone(buffer[:n])}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range parcels {
		sleepUntil(p.due)
		if _, err := to.Write(p.bytes); err != nil {
			end()
			for range parcels { // until the reader has seen it
			}
			return
		}
	}
}

// sleepUntil is more exact than time.Sleep, which rounds up to milliseconds
// where the process has nothing else to do.
func sleepUntil(due time.Time) {
	for left := time.Until(due); left > 0; left = time.Until(due) {
		span := syscall.NsecToTimespec(int64(left))
		_ = syscall.Nanosleep(&span, nil)
	}
}

// roundTrip is how long the shortest query takes, the least of many times.
func roundTrip(ctx context.Context, url string) (least time.Duration, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(ctx) }()
	const times = 100
	for range times {
		began := time.Now()
		if _, err := conn.Exec(ctx, "SELECT 1"); err != nil {
			return 0, err
		}
		if took := time.Since(began); least == 0 || took < least {
			least = took
		}
	}
	return least, nil
}
