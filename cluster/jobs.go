package cluster

import (
	"context"
	"time"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
)

// runsAreKept is how long ended runs of jobs are remembered.
const runsAreKept = 60 * 24 * time.Hour

// operationsAreKept is how long ended operations are remembered.
const operationsAreKept = 30 * 24 * time.Hour

// StandardJobs are the jobs of every installation.
func StandardJobs(d *txn.Directory, chores *txn.Chores) []Job {
	return []Job{
		{
			Name: "expire-holds", About: "Gives up the reservations whose deadlines have passed, with the transfers that they serve.",
			Schedule: "* * * * *", Clinics: atNow(chores.WithHoldsDue), Do: chores.ExpireHolds,
		},
		{
			Name: "return-uncollected", About: "Puts back what was laid ready for patients and not collected in time.",
			Schedule: "* * * * *", Clinics: atNow(chores.WithDispensingsDue), Do: chores.ReturnUncollected,
		},
		{
			Name: "lapse-approvals", About: "Ends the requests for a second person whose time has run out, and tells which reviews are overdue.",
			Schedule: "*/5 * * * *", Jitter: 30 * time.Second, Clinics: atNow(chores.WithApprovals), Do: chores.LapseApprovals,
		},
		{
			Name: "complete-transfers", About: "Closes the transfers that have arrived, and tells which are overdue.",
			Schedule: "*/15 * * * *", Jitter: time.Minute, Clinics: atNow(chores.WithTransfers), Do: chores.CompleteTransfers,
		},
		{
			Name: "quarantine-expired", About: "After midnight at each clinic: moves expired lots to quarantine, and tells which expire within 30, 60 and 90 days.",
			Schedule: "1,16,31,46 * * * *", Jitter: time.Minute,
			Clinics: func(ctx context.Context, turn Turn, after ledger.ClinicID, limit int) ([]ledger.ClinicID, error) {
				return chores.WithNewDay(ctx, turn.Previous, turn.Due, after, limit)
			},
			Do: chores.QuarantineExpired,
		},
		{
			Name: "low-stock", About: "Tells what each location holds too little of.",
			Schedule: "*/10 * * * *", Jitter: time.Minute, Clinics: atNow(chores.Clinics), Do: chores.ListLowStock,
		},
		{
			Name: txn.JobReconcile, About: "Compares what is stored with the journals: each night what came since the last one, over four weeks everything. Repairs nothing.",
			Schedule: "0 2 * * *", Jitter: 10 * time.Minute, Parallel: 2, Clinics: atNow(chores.Clinics), Do: chores.Reconcile,
		},
		{
			Name: "retention", About: "Deletes the results of reports that ended 7 days ago, and forgets operations that ended 30 days ago and runs of jobs that ended 60 days ago.",
			Schedule: "30 3 * * *", Jitter: 10 * time.Minute,
			Clinics: atNow(chores.Clinics),
			Do: func(ctx context.Context, e txn.Errand) (txn.Looked, error) {
				operations := txn.NewOperations(d)
				if err := operations.ForgetResults(ctx, e.Clinic, e.Now.Add(-txn.ResultsAreKept), e.Now); err != nil {
					return txn.Looked{}, err
				}
				return txn.Looked{}, operations.Forget(ctx, e.Term, e.Clinic, e.Now.Add(-operationsAreKept))
			},
			Finally: func(ctx context.Context, term txn.Term) error {
				_, err := txn.NewJobs(d.Main()).Forget(ctx, term, time.Now().Add(-runsAreKept))
				return err
			},
		},
	}
}

// CheckpointJob writes a checkpoint of each journal to where the database's
// administrators cannot change it, as write does for one clinic.
func CheckpointJob(chores *txn.Chores, write func(context.Context, txn.Errand) (txn.Looked, error)) Job {
	return Job{
		Name: "checkpoints", About: "Writes a signed checkpoint of each journal to the folder of --checkpoint-dir.",
		Schedule: "15 1 * * *", Jitter: 10 * time.Minute, Clinics: atNow(chores.Clinics), Do: write,
	}
}

// atNow lists clinics by how they are now.
func atNow(list func(context.Context, time.Time, ledger.ClinicID, int) ([]ledger.ClinicID, error)) func(context.Context, Turn, ledger.ClinicID, int) ([]ledger.ClinicID, error) {
	return func(ctx context.Context, turn Turn, after ledger.ClinicID, limit int) ([]ledger.ClinicID, error) {
		return list(ctx, turn.Now, after, limit)
	}
}
