package gs1

import "strings"

const gtinLength = 14

// CheckDigit returns the digit that completes a GTIN, an SSCC or any other GS1
// key whose digits before it are given. From the right the digits weigh 3, 1,
// 3, 1 … and the sum with the check digit is a multiple of ten (GS1 General
// Specifications, section 7.9).
func CheckDigit(digits string) (byte, error) {
	if digits == "" {
		return 0, refuse(0, "", "There are no digits to compute a check digit from.")
	}
	if at := nonDigit(digits); at >= 0 {
		return 0, refuse(at, "", "A check digit is computed from digits alone: remove everything else.")
	}
	return checkDigit(digits), nil
}

// checkDigit expects digits only.
func checkDigit(digits string) byte {
	sum, weight := 0, 3
	for i := len(digits) - 1; i >= 0; i-- {
		sum += int(digits[i]-'0') * weight
		weight = 4 - weight
	}
	return byte('0' + (10-sum%10)%10)
}

// NormalizeGTIN returns a GTIN-8, GTIN-12, GTIN-13 or GTIN-14 as 14 digits,
// zeros in front (GS1 General Specifications, section 3.3.2). An error is an
// [*Error]. Eight digits are read as a GTIN-8; a UPC-E code must be expanded to
// its 12 digits first, which scanners can be told to do.
func NormalizeGTIN(s string) (string, error) {
	if at := nonDigit(s); at >= 0 {
		return "", refuse(at, "", "A GTIN holds digits only: remove everything else.")
	}
	switch len(s) {
	case 8, 12, 13, 14:
	default:
		return "", refuse(min(len(s), gtinLength), "", "A GTIN has 8, 12, 13 or 14 digits and this one has %d: compare it with the pack.", len(s))
	}
	if want := checkDigit(s[:len(s)-1]); s[len(s)-1] != want {
		return "", refuse(len(s)-1, "", "The check digit of the GTIN %s is wrong (%c would fit): compare the number with the pack.", s, want)
	}
	return strings.Repeat("0", gtinLength-len(s)) + s, nil
}

// nonDigit returns the place of the first byte that is no digit, or -1.
func nonDigit(s string) int {
	return strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}
