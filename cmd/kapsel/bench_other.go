//go:build !unix

package main

// benchCmd stands in for `kapsel bench`, which stops and measures processes as only Unix can.
type benchCmd struct{}

// Run returns an error that says where the command runs.
func (benchCmd) Run() error { return settingError("kapsel bench runs on Linux and macOS only") }
