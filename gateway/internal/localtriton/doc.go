// Package localtriton runs a real Triton inference server on this machine as a
// child of the gateway, from the PyPI wheel nvidia-pytriton, over a folder of
// models. It is meant for a laptop, a test and a first look: the wheel carries
// Triton 2.51, which predates NVIDIA's security bulletins, so the server listens
// on a Unix socket in a folder that only this user may enter, and its inputs are
// the gateway's own. In production the gateway is pointed at servers that somebody
// else keeps up to date.
//
// # What is started
//
// tritonserver finds the Python backend in a folder that is assembled in the run
// folder out of links into the wheel (the wheel keeps the backend and the stub of
// each Python version apart). HTTP and metrics are off, and no port is taken. The
// folder is also the server's working directory, so that its socket, backends and
// models have short, plain names, whatever the run folder is called: the kernel
// takes no name of a socket beyond 107 bytes, and the Python backend hands paths
// to a shell. The child gets a small environment of its own; nothing of the
// gateway's environment (keys) reaches the models.
//
// # Ownership
//
// A Server owns its process group, its folder <run dir>/triton-*, the guard beside
// it and its shared-memory regions. One goroutine, supervise, starts the process,
// restarts it and ends it; it alone writes the process. Close ends everything and
// is the only way to end a Server that works.
//
// # When it hangs
//
// Triton says that a model is ready whose process is dead, stopped or waits for
// ever. Who calls the models finds that out and asks for a Restart. What can be
// seen from here is acted upon here: a model's process that is gone, a server that
// answers nothing (Config.SilenceTimeout), or one that loads and neither prints
// nor uses the processor (Config.LoadTimeout). Recovery is when a server that
// cannot serve now is expected back, by the start that was measured last.
//
// # After the gateway is killed
//
// A guard, a small process in a group of its own, waits for the end of a pipe
// that only the gateway holds, and then kills every process of the server and
// unlinks its shared memory; they are known by a random mark in their environment.
// It does not run the server, so nothing is lost if it dies or is stopped: another one
// takes its place. Should both end at once, the kernel's parent-death signal ends the
// server, whose models notice unless they are busy. What a guard could not end, the next Start ends: the run
// folder remembers mark and shared-memory prefix, and a lock that the kernel drops
// with its owner tells a dead owner from a living one. So two gateways in one run
// folder do not disturb each other.
package localtriton
