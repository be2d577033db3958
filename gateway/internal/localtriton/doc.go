// Package localtriton runs a real Triton inference server on this machine as a
// child of the gateway, from the PyPI wheel nvidia-pytriton, over a folder of
// models. It is meant for a laptop, a test and a first look: the wheel carries
// Triton 2.51, which predates NVIDIA's security bulletins, so the server listens
// on loopback only, its shared-memory, repository, trace and log protocols are
// locked, and its inputs are the gateway's own. In production the gateway is
// pointed at servers that somebody else keeps up to date.
//
// # What is started
//
// tritonserver finds the Python backend in a folder that is assembled in the run
// folder out of links into the wheel (the wheel keeps the backend and the stub of
// each Python version apart). HTTP and metrics are off. The port is chosen by the
// kernel and kept: the gateway holds a bound socket with SO_REUSEPORT that never
// listens, and Triton binds the same port beside it, so no other program can take
// the port between choosing and binding, or while the server restarts. The child
// gets a small environment of its own; nothing of the gateway's environment (keys)
// reaches the models.
//
// # Ownership
//
// A Server owns its process group, its folder <run dir>/triton-*, its port and its
// shared-memory regions. One goroutine, supervise, starts the process, restarts it
// and ends it; it alone writes the process and it stays on one OS thread, because
// the parent-death signal belongs to the thread that forked. Close ends everything
// and is the only way to end a Server that works.
//
// # After the gateway is killed
//
// The kernel kills tritonserver with its parent (PDEATHSIG), and the model
// processes notice within seconds that their server is gone. What does not end by
// itself, the next Start ends: every process of a server carries a random mark in
// its environment, the run folder remembers mark and shared-memory prefix, and a
// lock that the kernel drops with its owner tells a dead owner from a living one.
// So two gateways in one run folder do not disturb each other.
package localtriton
