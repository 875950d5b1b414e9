package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"text/tabwriter"
	"time"
)

// part is one row of the table.
type part struct {
	key     string // its figures' names begin with it
	name    string
	prepare func(round int) error // done before the clock starts; may be nil
	load    func(ctx context.Context, round int) (sample, error)
	agree   func(ctx context.Context, commands int64) error
	tables  []string // what its commands write
	against *part    // what its ratio refers to; nil: the baseline
	latency bool     // its ratio is that of the times within which 99 % were answered
	after   *part    // what it takes its rate from, run before it; may be nil
	mark    mark     // what it should come to; empty: nobody said
	samples []sample
}

// mark is what a part should come to: a least ratio, or a longest time for 99 of
// 100. It is printed and fails nothing, since machines have moods.
type mark struct {
	ratio float64
	p99   time.Duration
}

// flat is the mark of a part that should take as long as the one that it is
// compared with, give or take a mood.
const flat = 0.8

// against says what the mark is, and whether it was missed.
func (m mark) against(ratio, p99 float64) string {
	var text string
	var missed bool
	switch {
	case m.ratio > 0:
		text, missed = fmt.Sprintf("≥ %.2f", m.ratio), ratio < m.ratio
	case m.p99 > 0:
		text, missed = fmt.Sprintf("p99 < %s", m.p99), p99 >= float64(m.p99.Milliseconds())
	default:
		return "-"
	}
	if missed {
		return text + " missed"
	}
	return text + " met"
}

// sample is what one run of a part came to.
type sample struct {
	commands  int64
	elapsed   time.Duration
	latencies []time.Duration // of requests, sorted
	rows      float64         // a command
	bytes     float64         // a command, on disk with indexes
}

func (s sample) perSecond() float64 { return float64(s.commands) / s.elapsed.Seconds() }

// percentile returns the latency that a share of the requests stayed within.
func (s sample) percentile(share float64) time.Duration {
	if len(s.latencies) == 0 {
		return 0
	}
	return s.latencies[min(len(s.latencies)-1, int(share*float64(len(s.latencies))))]
}

func median[T cmp.Ordered](samples []sample, of func(sample) T) T {
	values := make([]T, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func (p *part) perSecond() float64 { return median(p.samples, sample.perSecond) }

func (p *part) milliseconds(share float64) float64 {
	d := median(p.samples, func(s sample) time.Duration { return s.percentile(share) })
	return float64(d.Microseconds()) / 1000
}

// drive runs callers until ctx ends. Each call of request does some commands and
// says how many; a request that the end of ctx cut off does not count.
func drive(ctx context.Context, callers int, request func(ctx context.Context, caller, n int) (int, error)) (sample, error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var total sample
	var failed error
	began := time.Now()
	for caller := range callers {
		wg.Go(func() {
			var mine sample
			var err error
			for n := 0; ctx.Err() == nil; n++ {
				start := time.Now()
				var commands int
				// A request that has begun is finished, so that every command
				// that was carried out is counted.
				if commands, err = request(context.WithoutCancel(ctx), caller, n); err != nil {
					break
				}
				mine.commands += int64(commands)
				mine.latencies = append(mine.latencies, time.Since(start))
			}
			mu.Lock()
			defer mu.Unlock()
			total.commands += mine.commands
			total.latencies = append(total.latencies, mine.latencies...)
			failed = errors.Join(failed, err)
		})
	}
	wg.Wait()
	total.elapsed = time.Since(began)
	slices.Sort(total.latencies)
	return total, failed
}

// report is the table and its figures.
type report struct {
	version string
	parts   []*part
	rss     float64
}

func newReport(version string, parts []*part, rss float64) *report {
	return &report{version: version, parts: parts, rss: rss}
}

// ratio compares a part with what it is measured against: the baseline, one
// transaction a command, spread, unless it says otherwise. It is 0 where that
// was not run.
func (r *report) ratio(p *part) float64 {
	against := p.against
	if against == nil {
		against = r.parts[0]
	}
	if len(against.samples) == 0 {
		return 0
	}
	if p.latency {
		return p.milliseconds(0.99) / against.milliseconds(0.99)
	}
	return p.perSecond() / against.perSecond()
}

func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "%s\nmedians of %d interleaved rounds; durability on; client on the same machine\n\n", r.version, len(r.parts[0].samples))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "part\tcommands/s\tp50 ms\tp95 ms\tp99 ms\t× baseline\tmark\trows/cmd\tbytes/cmd\t")
	for _, p := range r.parts {
		last := p.samples[len(p.samples)-1]
		fmt.Fprintf(t, "%s\t%.0f\t%.1f\t%.1f\t%.1f\t%.2f\t%s\t%s\t%s\t\n", p.name, p.perSecond(),
			p.milliseconds(0.50), p.milliseconds(0.95), p.milliseconds(0.99), r.ratio(p), p.mark.against(r.ratio(p), p.milliseconds(0.99)), orDash(last.rows), orDash(last.bytes))
	}
	_ = t.Flush()
	fmt.Fprintln(w, "\ntransfers are counted whole, and compared with hand-written SQL of the same five steps;")
	fmt.Fprintln(w, "prescriptions and dispensings with hand-written SQL of the same work; at half load, time runs from when a request was due")
	fmt.Fprintln(w, "of a high operation beside low ones, the ratio is that of its p99 to the p99 where nothing waits: smaller is better")
	fmt.Fprintf(w, "peak memory of the node: %.0f MiB\n", r.rss)
}

func orDash(f float64) string {
	if f == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", f)
}

// figures returns the same as one object.
func (r *report) figures() map[string]any {
	figures := map[string]any{"server_version": r.version, "node_rss_mib": r.rss}
	for _, p := range r.parts {
		figures[p.key+"_per_s"] = p.perSecond()
		figures[p.key+"_p50_ms"] = p.milliseconds(0.50)
		figures[p.key+"_p95_ms"] = p.milliseconds(0.95)
		figures[p.key+"_p99_ms"] = p.milliseconds(0.99)
		figures[p.key+"_ratio"] = r.ratio(p)
		if p.mark != (mark{}) {
			figures[p.key+"_mark"] = p.mark.against(r.ratio(p), p.milliseconds(0.99))
		}
		if p.key == "unary_spread" {
			figures["unary_p50_ms"] = p.milliseconds(0.50)
			figures["unary_p99_ms"] = p.milliseconds(0.99)
		}
		if last := p.samples[len(p.samples)-1]; last.rows > 0 {
			figures[p.key+"_rows_per_command"] = last.rows
			figures[p.key+"_bytes_per_command"] = last.bytes
		}
	}
	return figures
}
