package gs1

import (
	"fmt"
	"strings"
)

// Error says where and why an input was refused.
type Error struct {
	// Position is the byte of the input, counted from 0, where the trouble is.
	// Where something is missing, it is where that should stand.
	Position int
	// AI is the application identifier at fault, such as "17", or empty where
	// there is none.
	AI string
	// Message is a sentence for the person who holds the scanner: what is wrong
	// and what to do. It quotes at most 40 bytes of the input, all of them
	// printable ASCII.
	Message string
}

// Error returns the sentence with its position.
func (e *Error) Error() string {
	return fmt.Sprintf("gs1: byte %d: %s", e.Position, e.Message)
}

func refuse(position int, ai, format string, args ...any) *Error {
	return &Error{Position: position, AI: ai, Message: fmt.Sprintf(format, args...)}
}

// maxQuote keeps a message below the promised 40 bytes of input, even where it
// quotes twice.
const maxQuote = 20

// quote makes a piece of input fit to be shown: short, and without anything
// that a terminal or a log would act upon.
func quote(s string) string {
	cut := min(len(s), maxQuote)
	shown := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s[:cut])
	if cut < len(s) {
		shown += "…"
	}
	return shown
}
