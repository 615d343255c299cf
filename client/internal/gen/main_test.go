package main

import (
	"bytes"
	"os"
	"testing"
)

func TestGeneratedIsCurrent(t *testing.T) {
	want, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../generated.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("client/generated.go is not what the API's document says; run go generate ./client")
	}
}
