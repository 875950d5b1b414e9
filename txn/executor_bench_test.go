package txn

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stockledger/stockledger/ledger"
)

// benchClinics creates clinics with one location and as many medicines, each
// with one lot of plenty.
func benchClinics(b *testing.B, e *Executor, clinics, medicines int) []*testClinic {
	b.Helper()
	made := make([]*testClinic, clinics)
	for i := range made {
		c := &testClinic{tb: b, e: e, id: ledger.ClinicID(newClinicID(b))}
		bodies := []ledger.CommandBody{
			&ledger.CreateClinic{Name: "Bench", TimeZone: "UTC"},
			&ledger.CreateLocation{LocationID: "store", Name: "Store", LocationKind: ledger.Store},
		}
		for m := range medicines {
			id := fmt.Sprintf("med-%d", m)
			bodies = append(bodies,
				&ledger.AddMedicine{MedicineID: ledger.MedicineID(id), Name: id, BaseUnit: "tablet"},
				&ledger.RegisterLot{LotID: ledger.LotID("lot-" + id), MedicineID: ledger.MedicineID(id), Manufacturer: "A", LotNumber: "1", Expiry: ledger.MaxDate},
				&ledger.ReceiveStock{LocationID: "store", LotID: ledger.LotID("lot-" + id), Quantity: 1 << 40},
			)
		}
		c.mustAll(bodies...)
		made[i] = c
	}
	return made
}

// BenchmarkExecutorBatches submits batches of 500 reservations from 8 callers;
// an operation is one command.
func BenchmarkExecutorBatches(b *testing.B) {
	for _, spread := range []struct{ clinics, medicines int }{{100, 20}, {1, 1}} {
		b.Run(fmt.Sprintf("clinics=%d", spread.clinics), func(b *testing.B) {
			e := testExecutor(b, ExecutorConfig{})
			clinics := benchClinics(b, e, spread.clinics, spread.medicines)
			const size, callers = 500, 8
			var wg sync.WaitGroup
			batches := make(chan int)
			b.ResetTimer()
			for range callers {
				wg.Go(func() {
					for n := range batches {
						c := clinics[n%len(clinics)]
						commands := make([]ledger.Command, size)
						for i := range commands {
							body := reserve(1)
							body.MedicineID = ledger.MedicineID(fmt.Sprintf("med-%d", i%spread.medicines))
							commands[i] = c.command(body)
						}
						verdicts, err := e.Submit(context.Background(), Submission{Clinic: c.id, Commands: commands, Bulk: true})
						if err != nil || verdicts[0].Err != nil {
							b.Errorf("submit: %v", err)
						}
					}
				})
			}
			for n := 0; n < b.N; n += size {
				batches <- n / size
			}
			close(batches)
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
		})
	}
}
