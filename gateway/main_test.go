package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"testing"
)

// asProgram makes this test binary the program.
const asProgram = "FACEDIFFUSER_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0], args...)
	c.Env = append(os.Environ(), asProgram+"=1")
	return c
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit == nil {
		return 0
	}
	return exit.ExitCode()
}

func TestExitCodes(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := program(t, "version").Run(); err != nil {
		t.Errorf("a command that works: %v", err)
	}
	for want, args := range map[int][]string{
		1: {"healthcheck", "--url", "http://127.0.0.1:1"},
		2: {"doctor", "--nonsense"},
	} {
		if got := exitCode(t, program(t, args...).Run()); got != want {
			t.Errorf("%q: exit %d, want %d", args, got, want)
		}
	}
	waiting := program(t, "healthcheck", "--url", "http://"+listener.Addr().String())
	if err := waiting.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := listener.Accept() // and no answer
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := waiting.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if got := exitCode(t, waiting.Wait()); got != 130 {
		t.Errorf("interrupted: exit %d, want 130", got)
	}
}
