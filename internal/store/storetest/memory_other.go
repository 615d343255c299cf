//go:build !linux

package storetest

const memory = ""

func inMemory() bool { return false }
