package main

import (
	"context"
	"io"
	"os"

	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// importMedicinesCmd imports a formulary.
type importMedicinesCmd struct{ importFlags }

// Help describes the file.
func (importMedicinesCmd) Help() string {
	return `Columns: name (required), base_unit or unit (default "each"), strength, form, atc_code, category, medicine_id. They may stand in any order; others are named and ignored.

Example, for a clinic that does not exist yet:

  export STOCKLEDGER_TOKEN=$(stockledger token --role admin --clinic hillside)
  stockledger import medicines medicines.csv --clinic hillside --create-clinic "Hillside Health Centre" --time-zone Africa/Nairobi

` + importHelp
}

var medicineColumns = []column{
	{name: "name", required: true},
	{name: "base_unit", aliases: []string{"unit"}},
	{name: "strength"},
	{name: "form"},
	{name: "atc_code", aliases: []string{"atc"}},
	{name: "category"},
	{name: "medicine_id", aliases: []string{"id"}},
}

// Run imports the file.
func (c *importMedicinesCmd) Run(ctx context.Context) error { return c.importTo(ctx, os.Stderr) }

func (c *importMedicinesCmd) importTo(ctx context.Context, out io.Writer) error {
	f, err := readCSV(c.File, medicineColumns)
	if err != nil {
		return err
	}
	im := c.open(out)
	if err := im.prepare(ctx); err != nil {
		return err
	}
	keys := rowKeys{reference: im.Reference, seen: make(map[string]int)}
	tasks := make([]task, len(f.rows))
	for i, row := range f.rows {
		medicine := &pb.AddMedicine{
			MedicineId: row.get("medicine_id"), Name: row.get("name"), BaseUnit: row.get("base_unit"), Strength: row.get("strength"),
			Form: row.get("form"), AtcCode: row.get("atc_code"), Category: row.get("category"),
		}
		if medicine.GetBaseUnit() == "" {
			medicine.BaseUnit = "each"
		}
		tasks[i] = task{row: row, command: &pb.Command{
			IdempotencyKey: keys.next("medicine", medicine.GetMedicineId(), medicine.GetName(), medicine.GetBaseUnit(),
				medicine.GetStrength(), medicine.GetForm(), medicine.GetAtcCode(), medicine.GetCategory()),
			Body: &pb.Command_AddMedicine{AddMedicine: medicine},
		}}
	}
	if err := im.run(ctx, "medicines", tasks, true); err != nil {
		return err
	}
	return im.finish(f)
}
