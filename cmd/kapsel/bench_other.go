//go:build !unix

package main

// benchCmd replaces `kapsel bench`, which needs Unix to stop and measure processes.
type benchCmd struct{}

// Run returns an error that says where the command runs.
func (benchCmd) Run() error { return settingError("kapsel bench runs on Linux and macOS only") }
