package gs1_test

import (
	"errors"
	"fmt"

	"github.com/stockledger/stockledger/ledger/gs1"
)

func ExampleParse() {
	scan, err := gs1.Parse("]d201095060001343521728020010ABC123\x1d21X1", 2026)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(scan.Units(), "of", scan.Item())
	fmt.Println("lot", scan.Lot, "serial", scan.Serial, "expires", scan.Expiry)
	fmt.Println(gs1.Format(scan))
	// Output:
	// 1 of 09506000134352
	// lot ABC123 serial X1 expires 2028-02-29
	// (01)09506000134352(17)280229(10)ABC123(21)X1
}

func ExampleParse_case() {
	scan, err := gs1.Parse("(00)106141412345678908 (02)09506000134352(37)48(10)ABC123", 2026)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(scan.Units(), "of", scan.Item(), "on pallet", scan.SSCC)
	// Output: 48 of 09506000134352 on pallet 106141412345678908
}

func ExampleError() {
	_, err := gs1.Parse("(01)09506000134352(21)", 2026)
	fmt.Println(err)
	var refused *gs1.Error
	if errors.As(err, &refused) {
		fmt.Println(refused.Position, refused.AI)
		fmt.Println(refused.Message)
	}
	// Output:
	// gs1: byte 22: The serial number (21) is empty: scan the pack again.
	// 22 21
	// The serial number (21) is empty: scan the pack again.
}

func ExampleNormalizeGTIN() {
	gtin, err := gs1.NormalizeGTIN("4006381333931")
	fmt.Println(gtin, err)
	// Output: 04006381333931 <nil>
}
