//go:build !linux

package localdb

func postgresIn(string) []int { return nil }

// canSeeProcesses says that postgresIn can be relied upon.
const canSeeProcesses = false
