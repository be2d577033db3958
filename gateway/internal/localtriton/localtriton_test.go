package localtriton

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/facediffuser/facediffuser/tritonclient"
	"github.com/facediffuser/facediffuser/tritonclient/inference"
	"github.com/facediffuser/facediffuser/tritonclient/tritontest"
)

// gatewayVariable makes this test binary play a gateway that is about to be killed.
const gatewayVariable = "LOCALTRITON_TEST_GATEWAY"

func TestMain(m *testing.M) {
	if runDir := os.Getenv(gatewayVariable); runDir != "" {
		if err := playGateway(runDir); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
	}
	if what := os.Getenv(fullVariable); what != "" {
		if err := playFull(what); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// playGateway starts Triton, says so on stdout and waits for its death.
func playGateway(runDir string) error {
	server, err := Start(context.Background(), Config{Python: os.Getenv("FACEDIFFUSER_PYTHON"), ModelsDir: filepath.Join(runDir, "models"), RunDir: runDir})
	if err != nil {
		return err
	}
	if err := server.WaitReady(context.Background(), nil); err != nil {
		return err
	}
	fmt.Println("ready", server.instance.Mark, server.instance.SharedMemory)
	select {}
}

// python is the interpreter with nvidia-pytriton. Its absence is a failure: this
// package is about the real server.
func python(t *testing.T) string {
	t.Helper()
	path := os.Getenv("FACEDIFFUSER_PYTHON")
	if path == "" {
		t.Fatal("FACEDIFFUSER_PYTHON names no Python with nvidia-pytriton: run `make test`, or `make venv` and set it to .venv/bin/python")
	}
	return path
}

// oneModel is a repository with the conformance model slow.
func oneModel(t *testing.T, dir string) string {
	t.Helper()
	all := t.TempDir()
	if err := tritontest.WriteModels(all); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "slow"), os.DirFS(filepath.Join(all, "slow"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// start starts a server that is killed, and must leave nothing, at the test's end. (A
// graceful end takes Triton 2 to 3 s.)
func start(t *testing.T, config Config) *Server {
	t.Helper()
	config.Python = python(t)
	config.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	if config.RunDir == "" {
		config.RunDir = t.TempDir()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	server, err := Start(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := server.Close(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		nothingLeft(t, server.instance.Mark, server.instance.SharedMemory)
		if _, err := os.Stat(server.instance.dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the instance's folder is left: %v", err)
		}
	})
	return server
}

func waitReady(t *testing.T, server *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := server.WaitReady(ctx, nil); err != nil {
		t.Fatal(err)
	}
}

func nothingLeft(t *testing.T, mark, prefix string) {
	t.Helper()
	if pids, err := markedProcesses(mark); err != nil || len(pids) > 0 {
		t.Errorf("processes %v are left (%v)", pids, err)
	}
	if regions := regions(t, prefix); len(regions) > 0 {
		t.Errorf("shared memory %v is left", regions)
	}
}

func regions(t *testing.T, prefix string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(sharedMemory, prefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// await asks until done, for at most 15 s.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for began := time.Now(); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 15*time.Second {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// kernelTable is a table of /proc/net, taken apart.
func kernelTable(t *testing.T, name string) (rows [][]string) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/" + name)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		rows = append(rows, strings.Fields(line))
	}
	return rows
}

// TestConformance runs the client's suite on the server of the nvidia-pytriton wheel,
// and looks at how that server was started.
func TestConformance(t *testing.T) {
	t.Setenv("SECRET_OF_THE_GATEWAY", "hidden")
	models := t.TempDir()
	if err := tritontest.WriteModels(models); err != nil {
		t.Fatal(err)
	}
	server := start(t, Config{ModelsDir: models})
	var seen []Status
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := server.WaitReady(ctx, func(s Status) { seen = append(seen, s) }); err != nil {
		t.Fatal(err)
	}
	first, last := seen[0], seen[len(seen)-1]
	if first.State != Starting || last.State != Ready || len(last.Loaded) != 7 || last.Models != 7 || last.PID == 0 || last.Restarts != 0 {
		t.Errorf("progress from %+v to %+v", first, last)
	}
	tritontest.Conformance(t, tritontest.Target{Address: server.Address(), Batcher: true})

	t.Run("Private", func(t *testing.T) {
		// What the kernel says of who listens where: a socket in a folder of this user's, and nothing else.
		pids, err := markedProcesses(server.instance.Mark)
		if err != nil || len(pids) == 0 {
			t.Fatal(pids, err)
		}
		inodes := make(map[string]bool)
		for _, pid := range pids {
			links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
			if err != nil {
				t.Fatal(err)
			}
			for _, link := range links {
				if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, "socket:[") {
					inodes[strings.Trim(target, "socket:[]")] = true
				}
			}
			line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if err != nil || strings.Contains(string(line), "secret") {
				t.Errorf("process %d is called as %q (%v)", pid, line, err)
			}
		}
		const listening = "0A" // TCP_LISTEN of the kernel's tcp_states.h
		for _, table := range []string{"tcp", "tcp6"} {
			for _, fields := range kernelTable(t, table) {
				if len(fields) > 9 && fields[3] == listening && inodes[fields[9]] {
					t.Errorf("listens on %s %s", table, fields[1])
				}
			}
		}
		var paths []string
		for _, fields := range kernelTable(t, "unix") { // Num RefCount Protocol Flags Type St Inode Path
			if len(fields) == 8 && fields[3] == "00010000" && inodes[fields[6]] {
				paths = append(paths, fields[7])
			}
		}
		if len(paths) != 1 || paths[0] != socketName+":"+socketPort { // relative to its working directory
			t.Errorf("listens on the Unix sockets %v", paths)
		}
		info, err := os.Stat(server.instance.dir)
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("the socket's folder: %v, %v, want mode 0700", info, err)
		}
		if want := "unix://" + filepath.Join(server.instance.dir, "grpc:8001"); server.Address() != want {
			t.Errorf("the address is %s, want %s", server.Address(), want)
		}
	})
	t.Run("SharedMemory", func(t *testing.T) {
		// It holds the tensors of the latest calls, pictures of faces among them.
		found := regions(t, server.instance.SharedMemory)
		if len(found) != 7 {
			t.Errorf("regions %v, want one of each model", found)
		}
		for _, path := range found {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if mode := info.Mode().Perm(); mode != 0o600 {
				t.Errorf("%s has the mode %v, want 0600", path, mode)
			}
		}
	})
	t.Run("Environment", func(t *testing.T) {
		pids, err := markedProcesses(server.instance.Mark)
		if err != nil || len(pids) != 8 {
			t.Fatalf("processes %v (%v), want the server and 7 models", pids, err)
		}
		for _, pid := range pids {
			environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
			if err != nil || strings.Contains(string(environment), "SECRET_OF_THE_GATEWAY") {
				t.Errorf("process %d knows the gateway's environment (%v)", pid, err)
			}
		}
	})
}

// TestRestart kills the server in a request: the request fails as unavailable, the
// server comes back on the same address, and the pool uses it without being told.
func TestRestart(t *testing.T) {
	server := start(t, Config{ModelsDir: oneModel(t, t.TempDir())})
	waitReady(t, server)
	pool, err := tritonclient.New(tritonclient.Options{Replicas: []string{server.Address()}})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	call := func(milliseconds int64) error {
		_, err := pool.Infer(t.Context(), tritonclient.Request{Model: "slow", Timeout: time.Minute,
			Inputs: []tritonclient.Tensor{tritonclient.Int64("milliseconds", []int64{1, 1}, []int64{milliseconds})}})
		return err
	}
	if err := call(1); err != nil {
		t.Fatal(err)
	}
	before, address := server.Status(), server.Address()
	inFlight := make(chan error)
	go func() { inFlight <- call(30_000) }()
	await(t, "the request", func() bool { return pool.Replicas()[0].Outstanding == 1 })
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-inFlight; !errors.Is(err, tritonclient.Unavailable) {
		t.Errorf("the request in flight: %v, want Unavailable", err)
	}
	await(t, "the death to be noticed", func() bool { return server.Status().Restarts == 1 })
	waitReady(t, server)
	await(t, "a call to work", func() bool { return call(1) == nil })
	after := server.Status()
	var exit *ExitError
	if after.PID == before.PID || server.Address() != address || !errors.As(after.LastExit, &exit) || exit.Status != "signal: killed" {
		t.Errorf("after the restart: %+v on %s", after, server.Address())
	}
	if err := server.Err(); err != nil {
		t.Errorf("a supervised server has the error %v", err)
	}
}

// TestModelProcessDies: Triton would answer "ready" and fail every call for good; so it
// is started again.
func TestModelProcessDies(t *testing.T) {
	server := start(t, Config{ModelsDir: oneModel(t, t.TempDir())})
	waitReady(t, server)
	models := modelProcesses(server.Status().PID)
	if len(models) != 1 {
		t.Fatalf("model processes %v, want one", models)
	}
	pool, err := tritonclient.New(tritonclient.Options{Replicas: []string{server.Address()}})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for pid, name := range models {
		if name != "slow" {
			t.Errorf("the model's name is %q", name)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "the death to be noticed", func() bool { return server.Status().Restarts == 1 })
	var exit *ExitError
	if last := server.Status().LastExit; !errors.As(last, &exit) || !strings.Contains(exit.Status, "model slow died") {
		t.Errorf("%v, want the model named", last)
	}
	await(t, "a call to work", func() bool {
		_, err := pool.Infer(t.Context(), tritonclient.Request{Model: "slow", Timeout: time.Minute,
			Inputs: []tritonclient.Tensor{tritonclient.Int64("milliseconds", []int64{1, 1}, []int64{1})}})
		return err == nil
	})
}

// TestBrokenModel: a model that does not load is the user's fault; the server is given
// up, with the reason.
func TestBrokenModel(t *testing.T) {
	for _, test := range []struct{ name, config, code, want string }{
		{"exception", "", "raise RuntimeError('weights are missing')", "weights are missing"},
		{"configuration", "nonsense: 1", "", "nonsense"},
	} {
		t.Run(test.name, func(t *testing.T) {
			models := oneModel(t, t.TempDir())
			config, err := os.ReadFile(filepath.Join(models, "slow", "config.pbtxt"))
			if err != nil {
				t.Fatal(err)
			}
			write := func(path, text string) {
				if err := os.WriteFile(filepath.Join(models, "slow", path), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write("config.pbtxt", string(config)+test.config)
			if test.code != "" {
				write("1/model.py", test.code)
			}
			server := start(t, Config{ModelsDir: models})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err = server.WaitReady(ctx, nil)
			var exit *ExitError
			if !errors.As(err, &exit) || !strings.Contains(exit.Reason, test.want) || !strings.Contains(err.Error(), "triton.log") {
				t.Errorf("%v, want a reason that says %q", err, test.want)
			}
			t.Log(err)
			<-server.Done()
			if server.Err() == nil || server.Status().State != Stopped || server.Status().Restarts != maxFailedStarts {
				t.Errorf("given up as %+v, %v", server.Status(), server.Err())
			}
		})
	}
}

// TestHangingModel: a server that gets stuck as it loads is started again, and given up in the end.
func TestHangingModel(t *testing.T) {
	models := oneModel(t, t.TempDir())
	if err := os.WriteFile(filepath.Join(models, "slow", "1", "model.py"), []byte("import time\ntime.sleep(600)"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := start(t, Config{ModelsDir: models, LoadTimeout: 3 * time.Second})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	err := server.WaitReady(ctx, nil)
	var exit *ExitError
	if !errors.As(err, &exit) || !strings.Contains(exit.Status, "made no progress for 3s while it loaded") || server.Status().Restarts != maxFailedStarts {
		t.Errorf("%v after %+v", err, server.Status())
	}
}

// TestServerThatGoesOn: the double of a server that is up without one of its models says
// what a real one says. Ours never does (--exit-on-error), so it is started by hand.
func TestServerThatGoesOn(t *testing.T) {
	models := t.TempDir()
	if err := tritontest.WriteModels(models); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"add", "batch", "echo_fp16", "echo_int64", "scalar"} {
		if err := os.RemoveAll(filepath.Join(models, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(models, "broken/1/model.py"), []byte("raise RuntimeError('weights are missing')"), 0o600); err != nil {
		t.Fatal(err)
	}
	wheel, err := findWheel(t.Context(), python(t))
	if err != nil {
		t.Fatal(err)
	}
	config := Config{ModelsDir: models, RunDir: t.TempDir()}
	instance, err := newInstance(t.Context(), config.RunDir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer instance.remove()
	command, err := prepare(t.Context(), config, wheel, instance)
	if err != nil {
		t.Fatal(err)
	}
	arguments := slices.DeleteFunc(command.arguments, func(a string) bool {
		return strings.HasPrefix(a, "--exit-on-error")
	})
	process := exec.Command(command.path, append(arguments, "--exit-on-error=false", "--grpc-restricted-protocol=statistics:secret=x")...)
	process.Env, process.Dir = command.environment, command.dir
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := killMarked(context.Background(), instance.Mark); err != nil {
			t.Error(err)
		}
		_ = process.Wait() // says that it was killed
	}()
	conn, err := grpc.NewClient(instance.address(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	await(t, "an answer", func() bool {
		_, err := inference.NewGRPCInferenceServiceClient(conn).ServerLive(t.Context(), &inference.ServerLiveRequest{})
		return err == nil
	})
	tritontest.ConformanceUnready(t, instance.address())

	// A protocol that is restricted is not an outage, though Triton's code for it is the same.
	for secret, want := range map[string]error{"": tritonclient.PermissionDenied, "y": tritonclient.PermissionDenied, "x": nil} {
		pool, err := tritonclient.New(tritonclient.Options{Replicas: []string{instance.address()}, Header: map[string]string{"triton-grpc-protocol-secret": secret}, Direct: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pool.Statistics(t.Context(), "slow"); !errors.Is(err, want) {
			t.Errorf("statistics with the secret %q: %v, want %v", secret, err, want)
		}
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestClose(t *testing.T) {
	models := oneModel(t, t.TempDir())
	t.Run("while loading", func(t *testing.T) {
		server := start(t, Config{ModelsDir: models})
		if err := server.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := server.WaitReady(t.Context(), nil); err == nil {
			t.Error("a closed server is ready")
		}
		if err := server.Err(); err != nil {
			t.Errorf("a closed server has the error %v", err)
		}
	})
	t.Run("gracefully", func(t *testing.T) {
		server := start(t, Config{ModelsDir: models})
		waitReady(t, server)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := server.Close(ctx); err != nil {
			t.Error(err)
		}
		text, err := os.ReadFile(server.config.LogFile)
		if err != nil || !strings.Contains(string(text), "successfully unloaded 'slow'") {
			t.Errorf("the model was not unloaded (%v)", err)
		}
	})
	t.Run("by force", func(t *testing.T) {
		server := start(t, Config{ModelsDir: models})
		waitReady(t, server)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := server.Close(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want the context's error", err)
		}
		if err := server.Close(t.Context()); err != nil { // again
			t.Error(err)
		}
	})
}

// killedGateway runs a gateway with its own Triton in another process and kills it.
// before is called in between.
func killedGateway(t *testing.T, runDir string, before func(mark string)) (mark, prefix string) {
	t.Helper()
	command := exec.Command(os.Args[0], "-test.run=^$")
	command.Env = append(os.Environ(), gatewayVariable+"="+runDir, "FACEDIFFUSER_PYTHON="+python(t))
	command.Stderr = t.Output()
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(output).ReadString('\n')
	if _, scan := fmt.Sscanf(line, "ready %s %s", &mark, &prefix); err != nil || scan != nil {
		_ = command.Process.Kill()
		t.Fatalf("the gateway says %q (%v)", line, err)
	}
	before(mark)
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait() // says that it was killed
	return mark, prefix
}

// guards are those of the server that has mark. Of what it was called with, only a guard's own
// arguments name it: the others have it in their environment.
func guards(mark string) (pids []int) {
	for candidate := range processes() {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", candidate))
		if err == nil && strings.Contains(string(line), "\x00"+markVariable+"="+mark+"\x00") {
			pids = append(pids, candidate)
		}
	}
	return pids
}

func guardOf(t *testing.T, mark string) (pid int) {
	t.Helper()
	pids := guards(mark)
	if len(pids) != 1 {
		t.Fatalf("the server has the guards %v, want one", pids)
	}
	return pids[0]
}

// TestKilledGatewayLeavesNothing: after a SIGKILL of the gateway its Triton ends by itself, without a next
// start, whatever its processes are doing.
func TestKilledGatewayLeavesNothing(t *testing.T) {
	stop := func(command string) func(*testing.T, string) {
		return func(t *testing.T, mark string) {
			for _, pid := range named(t, mark, command) {
				if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for name, before := range map[string]func(t *testing.T, mark string){
		"idle":           func(*testing.T, string) {},
		"stopped model":  stop("triton_python"),
		"stopped server": stop("tritonserver"),
		"stopped guard":  stopGuard,
		"all stopped": func(t *testing.T, mark string) {
			stop("triton_python")(t, mark)
			stop("tritonserver")(t, mark)
			stopGuard(t, mark)
		},
		"asked to end": func(t *testing.T, mark string) { // as a service manager asks every process of a group
			if err := syscall.Kill(guardOf(t, mark), syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			runDir := t.TempDir()
			oneModel(t, filepath.Join(runDir, "models"))
			var guard int
			mark, prefix := killedGateway(t, runDir, func(mark string) {
				if pids, err := markedProcesses(mark); err != nil || len(pids) != 2 {
					t.Fatalf("processes %v (%v), want the server and its model", pids, err)
				}
				guard = guardOf(t, mark)
				before(t, mark)
			})
			began := time.Now()
			await(t, "the end of its processes", func() bool {
				pids, err := markedProcesses(mark)
				return err == nil && len(pids) == 0 && len(regions(t, prefix)) == 0 && !alive(guard)
			})
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("gone after %v", took)
			} else {
				t.Logf("gone after %v", took)
			}
		})
	}
}

// named are the processes with mark whose command begins so.
func named(t *testing.T, mark, command string) (found []int) {
	t.Helper()
	pids, err := markedProcesses(mark)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && strings.HasPrefix(string(name), command) {
			found = append(found, pid)
		}
	}
	if len(found) == 0 {
		t.Fatalf("no process is called %s", command)
	}
	return found
}

func stopGuard(t *testing.T, mark string) {
	t.Helper()
	pid := guardOf(t, mark)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	await(t, "the guard to stop", func() bool {
		p, ok := readProcess(pid)
		return ok && p.state == "T"
	})
}

// TestServerDiesWithItsGateway: by the kernel, where there is no guard any more.
func TestServerDiesWithItsGateway(t *testing.T) {
	runDir := t.TempDir()
	models := oneModel(t, filepath.Join(runDir, "models"))
	var server []int
	mark, prefix := killedGateway(t, runDir, func(mark string) {
		server = named(t, mark, "tritonserver")
		if err := syscall.Kill(guardOf(t, mark), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	})
	began := time.Now()
	await(t, "the end of the server", func() bool { return !alive(server[0]) })
	if took := time.Since(began); took > time.Second {
		t.Errorf("gone after %v", took)
	}
	start(t, Config{ModelsDir: models, RunDir: runDir})
	nothingLeft(t, mark, prefix)
}

// TestGuardFails: a server is never left unguarded, and another guard costs it nothing.
func TestGuardFails(t *testing.T) {
	server := start(t, Config{ModelsDir: oneModel(t, t.TempDir()), SilenceTimeout: 4 * time.Second})
	waitReady(t, server)
	before := server.Status()
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		old := guardOf(t, server.instance.Mark)
		if err := syscall.Kill(old, signal); err != nil {
			t.Fatal(err)
		}
		await(t, "the end of the old guard", func() bool { return !alive(old) })
		await(t, "another guard", func() bool {
			pids := guards(server.instance.Mark)
			return len(pids) == 1 && pids[0] != old
		})
	}
	if after := server.Status(); after.PID != before.PID || after.Restarts != 0 {
		t.Errorf("the server was disturbed: %+v", after)
	}
}

// TestStoppedServer: a server that answers nothing is started again, and Recovery has said when it would be back.
func TestStoppedServer(t *testing.T) {
	const silence = 2 * time.Second
	server := start(t, Config{ModelsDir: oneModel(t, t.TempDir()), SilenceTimeout: silence})
	waitReady(t, server)
	before := server.Status()
	if err := syscall.Kill(before.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	await(t, "the silence to be noticed", func() bool { return server.Status().Restarts == 1 })
	if took := time.Since(stopped); took < silence-askInterval {
		t.Errorf("killed after %v, want %v or more", took, silence)
	}
	expected, since := server.Recovery(), time.Now()
	waitReady(t, server)
	t.Logf("expected to be back in %v, was in %v", expected, time.Since(since))
	var exit *ExitError
	if after := server.Status(); after.PID == before.PID || !errors.As(after.LastExit, &exit) || exit.Status != "killed because it answered nothing for 2s" {
		t.Errorf("after the restart: %+v", after)
	}
}

// TestAskedToRestart: who knows more of a ready server than it says itself can have it started again.
func TestAskedToRestart(t *testing.T) {
	server := start(t, Config{ModelsDir: oneModel(t, t.TempDir())})
	server.Restart("it has not even begun") // ignored: a new one is on its way
	waitReady(t, server)
	if s := server.Status(); s.Restarts != 0 {
		t.Fatalf("a server that loads its models was started again: %+v", s)
	}
	server.Restart("its model slow fails")
	server.Restart("its model slow fails") // once is enough
	await(t, "the restart", func() bool { return server.Status().Restarts == 1 })
	waitReady(t, server)
	var exit *ExitError
	if s := server.Status(); s.Restarts != 1 || !errors.As(s.LastExit, &exit) || exit.Status != "killed because its model slow fails" {
		t.Errorf("after the restart: %+v", s)
	}
}

// TestRecovery: what is expected at each time of a server whose last start took 4 s, as Recovery's comment has it.
func TestRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		for _, c := range []struct {
			name    string
			server  *Server
			seconds float64
		}{
			{"first start", &Server{status: Status{State: Starting}, since: now.Add(-2 * time.Second)}, 8},
			{"start", &Server{status: Status{State: Starting}, since: now.Add(-time.Second), loadTime: 4 * time.Second}, 3},
			{"late start", &Server{status: Status{State: Starting}, since: now.Add(-7 * time.Second), loadTime: 4 * time.Second}, 3},
			{"just late", &Server{status: Status{State: Starting}, since: now.Add(-5 * time.Second), loadTime: 4 * time.Second}, 2},
			{"waiting to start", &Server{status: Status{State: Restarting}, since: now.Add(-time.Second), backoff: 3 * time.Second, loadTime: 4 * time.Second}, 6},
			{"a model fails", &Server{status: Status{State: Ready}, since: now.Add(-time.Hour), answered: now, backoff: 8 * time.Second, loadTime: 4 * time.Second}, 7.5},
			{"just ready", &Server{status: Status{State: Ready}, since: now.Add(-500 * time.Millisecond), answered: now, backoff: 8 * time.Second, loadTime: 4 * time.Second}, 1.5},
			{"a model fails again", &Server{status: Status{State: Ready}, since: now.Add(-5 * time.Second), answered: now, backoff: time.Second, loadTime: 4 * time.Second}, 9},
			{"silent", &Server{status: Status{State: Ready}, config: Config{SilenceTimeout: 10 * time.Second}, since: now.Add(-time.Hour), answered: now.Add(-6 * time.Second), loadTime: 4 * time.Second}, 8.5},
		} {
			if got := c.server.Recovery().Seconds(); got != c.seconds {
				t.Errorf("%s: %g s, want %g", c.name, got, c.seconds)
			}
		}
	})
}

// TestStalledProgress: a server is stalled from its last sign of progress, a line of its log or processor time.
func TestStalledProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		p := progress{at: begin, needed: 600 * time.Millisecond}
		for _, c := range []struct {
			at, printed, used, want time.Duration
		}{
			{10 * time.Second, 0, 0, 10 * time.Second},
			{20 * time.Second, 15 * time.Second, 0, 5 * time.Second},                       // it has printed
			{30 * time.Second, 15 * time.Second, 500 * time.Millisecond, 15 * time.Second}, // idling is no progress
			{40 * time.Second, 15 * time.Second, 700 * time.Millisecond, 0},                // working is
			{50 * time.Second, 15 * time.Second, 900 * time.Millisecond, 10 * time.Second},
			{60 * time.Second, 15 * time.Second, 1300 * time.Millisecond, 0},
		} {
			time.Sleep(time.Until(begin.Add(c.at)))
			if got := p.stalled(begin.Add(c.printed), c.used); got != c.want {
				t.Errorf("after %v, having used %v: stalled for %v, want %v", c.at, c.used, got, c.want)
			}
		}
	})
}

// TestBusyLoadIsNoHang: a model that prints nothing for longer than the limit as it loads, but works, is let be.
func TestBusyLoadIsNoHang(t *testing.T) {
	models := oneModel(t, t.TempDir())
	path := filepath.Join(models, "slow", "1", "model.py")
	code, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append([]byte("import time\nbegin = time.time()\nwhile time.time() < begin + 4:\n    pass\n\n"), code...), 0o600); err != nil {
		t.Fatal(err)
	}
	server := start(t, Config{ModelsDir: models, LoadTimeout: 2 * time.Second})
	waitReady(t, server)
	if s := server.Status(); s.Restarts != 0 {
		t.Errorf("it was started again: %+v", s)
	}
}

// TestLongRunFolder: the kernel takes no name of a socket beyond 107 bytes, the Python backend none that a shell
// would take apart, an operator any folder.
func TestLongRunFolder(t *testing.T) {
	runDir := filepath.Join(t.TempDir(), strings.Repeat("long ", 30), "100%25 #1? $(exit)")
	server := start(t, Config{ModelsDir: oneModel(t, filepath.Join(t.TempDir(), "the models; all")), RunDir: runDir})
	waitReady(t, server)
	pool, err := tritonclient.New(tritonclient.Options{Replicas: []string{server.Address()}})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := pool.ModelReady(t.Context(), "slow"); err != nil {
		t.Error(err)
	}
}

// TestNextStartCleansUp: where the guard cannot, the next start ends the processes of a killed
// gateway, a model's child with a session of its own too, and unlinks their shared memory. It leaves
// a living gateway in the same run folder alone.
func TestNextStartCleansUp(t *testing.T) {
	runDir := t.TempDir()
	models := oneModel(t, filepath.Join(runDir, "models"))
	neighbour := start(t, Config{ModelsDir: models, RunDir: runDir})
	waitReady(t, neighbour)
	code, err := os.ReadFile(filepath.Join(models, "slow/1/model.py"))
	if err != nil {
		t.Fatal(err)
	}
	code = append(code, "\n\nimport subprocess\n\nsubprocess.Popen(['sleep', '600'], start_new_session=True)\n"...)
	if err := os.WriteFile(filepath.Join(models, "slow/1/model.py"), code, 0o600); err != nil {
		t.Fatal(err)
	}
	mark, prefix := killedGateway(t, runDir, func(mark string) {
		pids, err := markedProcesses(mark)
		if err != nil || len(pids) != 3 {
			t.Fatalf("processes %v (%v), want the server, its model and the model's child", pids, err)
		}
		if err := syscall.Kill(guardOf(t, mark), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	})
	if len(regions(t, prefix)) == 0 {
		t.Fatal("no shared memory is left to unlink")
	}
	next := start(t, Config{ModelsDir: models, RunDir: runDir})
	nothingLeft(t, mark, prefix)
	waitReady(t, next)
	if next.Address() == neighbour.Address() {
		t.Errorf("two gateways share %s", next.Address())
	}
	if s := neighbour.Status(); s.State != Ready || s.Restarts != 0 {
		t.Errorf("the neighbour was disturbed: %+v", s)
	}
	dirs, err := filepath.Glob(filepath.Join(runDir, "triton-*"))
	if err != nil || len(dirs) != 2 {
		t.Errorf("instance folders %v (%v), want two", dirs, err)
	}
}

func TestStartErrors(t *testing.T) {
	models := oneModel(t, t.TempDir())
	// fake is an interpreter that answers describe.py with text.
	fake := func(text string) string {
		path := filepath.Join(t.TempDir(), "python")
		if err := os.WriteFile(path, []byte("#!/bin/sh\ncat <<'E'\n"+text+"\nE\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, test := range []struct {
		name   string
		config Config
		want   []string
	}{
		{"no interpreter given", Config{ModelsDir: models}, []string{"no Python interpreter", "make venv"}},
		{"no interpreter there", Config{ModelsDir: models, Python: "/nowhere/python"}, []string{"no Python at /nowhere/python", "make venv"}},
		{"not Python", Config{ModelsDir: models, Python: "/bin/true"}, []string{"does not answer as Python"}},
		{"too new", Config{ModelsDir: models, Python: fake(`{"Version": "3.14", "Implementation": "cpython"}`)}, []string{"cpython 3.14", "3.9 to 3.13", "make venv"}},
		{"too old", Config{ModelsDir: models, Python: fake(`{"Version": "3.8", "Implementation": "cpython"}`)}, []string{"cpython 3.8", "3.9 to 3.13"}},
		{"another Python", Config{ModelsDir: models, Python: fake(`{"Version": "3.11", "Implementation": "pypy"}`)}, []string{"pypy 3.11", "CPython"}},
		{"no wheel", Config{ModelsDir: models, Python: fake(`{"Version": "3.11", "Implementation": "cpython"}`)}, []string{"no nvidia-pytriton", "make venv"}},
		{"broken wheel", Config{ModelsDir: models, Python: fake(`{"Version": "3.11", "Implementation": "cpython", "SitePackages": "/nowhere"}`)}, []string{"lacks its", "/nowhere", "0.7.0"}},
		{"no models", Config{ModelsDir: t.TempDir(), Python: fake("")}, []string{"holds no model"}},
		{"a model lacks", Config{ModelsDir: models, Needed: []string{"slow", "unet_tdm", "vae_decoder"}, Python: fake("")}, []string{"lacks unet_tdm, vae_decoder (unet_tdm/config.pbtxt is not there)", "--family"}},
		{"no models folder", Config{ModelsDir: "/nowhere", Python: fake("")}, []string{"/nowhere"}},
		{"none given", Config{Python: fake("")}, []string{"no models folder given"}},
	} {
		test.config.RunDir = t.TempDir()
		server, err := Start(t.Context(), test.config)
		if err == nil {
			_ = server.Close(t.Context())
			t.Errorf("%s: started", test.name)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", test.name, err, want)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(test.config.RunDir, "triton-*")); len(left) > 0 {
			t.Errorf("%s: left %v", test.name, left)
		}
	}
	if _, err := Start(t.Context(), Config{Python: python(t), ModelsDir: models}); err == nil || !strings.Contains(err.Error(), "run folder") {
		t.Errorf("no run folder: %v", err)
	}
}

// TestStubWithoutLibpython: the loader's complaint is translated.
func TestStubWithoutLibpython(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stub")
	script := "#!/bin/sh\necho 'stub: error while loading shared libraries: libpython3.12.so.1.0: cannot open shared object file' >&2\nexit 127\n"
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	err := checkStub(t.Context(), path, nil)
	if err == nil || !strings.Contains(err.Error(), "libpython") || !strings.Contains(err.Error(), "--enable-shared") {
		t.Errorf("%v", err)
	}
}

func TestLogFileIsCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "triton.log")
	log, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if log.limit != maxLogBytes {
		t.Errorf("limit %d", log.limit)
	}
	log.limit = 64 << 10
	line := strings.Repeat("x", 1023) + "\n"
	for range 3 * int(log.limit) / len(line) {
		if _, err := io.WriteString(log, line); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{path, path + ".1"} {
		info, err := os.Stat(name)
		if err != nil || info.Size() > log.limit || info.Size() == 0 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if len(log.recent) != keptLines {
		t.Errorf("%d lines kept, want %d", len(log.recent), keptLines)
	}
}

func TestLogIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "triton.log")
	log, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var loaded []string
	serving := 0
	log.loaded = func(m string) { loaded = append(loaded, m) }
	log.serving = func() { serving++ }
	text := `I1123 05:44:08.814383 25079 model_lifecycle.cc:839] "successfully loaded 'add'"
+------+------+
| name | path |
+------+------+
E1123 05:44:08.900000 25079 model_lifecycle.cc:642] "failed to load 'slow' version 1: Internal: boom
At:
  model.py(3): initialize
"
I1123 05:44:08.814627 25079 grpc_server.cc:2558] "Started GRPCInferenceService at 127.0.0.1:18001"
error: creating server: Internal - failed to load all models
`
	for i := 0; i < len(text); i += 7 { // as a pipe gives it
		_, _ = io.WriteString(log, text[i:min(i+7, len(text))])
	}
	if len(loaded) != 1 || loaded[0] != "add" || serving != 1 {
		t.Errorf("loaded %v, serving %d", loaded, serving)
	}
	if reason := log.reason(); !strings.Contains(reason, "boom") || !strings.Contains(reason, "model.py(3)") || strings.Contains(reason, "path") || strings.Contains(reason, "Started") {
		t.Errorf("reason: %s", reason)
	}
	written, err := os.ReadFile(path)
	if err != nil || string(written) != text {
		t.Errorf("the log file holds %q (%v)", written, err)
	}
}
