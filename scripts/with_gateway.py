"""Runs a command beside a gateway: `with_gateway.py COMMAND...` sets FACEDIFFUSER_URL for it.

Uses the gateway at FACEDIFFUSER_URL if that is set; otherwise starts bin/facediffuser on a free port with its own Triton, and ends it
with SIGTERM afterwards. Standard library only; also a module: `with gateway() as (url, process)`.
"""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def gateway(*flags):
    """Yields (URL, Popen), or (URL, None) for a gateway that was there before."""
    if url := os.environ.get("FACEDIFFUSER_URL"):
        yield url, None
        return
    with tempfile.TemporaryDirectory(prefix="facediffuser-") as run_dir, open(pathlib.Path(run_dir, "gateway.log"), "w+") as log:
        command = [ROOT / "bin/facediffuser", "serve", "--listen", "127.0.0.1:0", "--run-dir", run_dir, *flags]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            # It prints its address when every network is ready.
            url = next((m[0] for line in process.stdout if (m := re.search(r"http://\S+:\d+", line))), None)
            if url is None:
                log.seek(0)
                sys.exit(f"the gateway ended with {process.wait()} before it was ready:\n{log.read()[-4000:]}")
            yield url, process
        except BaseException:
            log.seek(0)
            print(f"the gateway's last words:\n{log.read()[-4000:]}", file=sys.stderr)
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            process.stdout.close()
            if code := process.wait(timeout=60):
                log.seek(0)
                print(f"the gateway ended with {code}:\n{log.read()[-4000:]}", file=sys.stderr)


if __name__ == "__main__":
    # Unhandled, SIGTERM would end this process alone and leave gateway and command running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with gateway() as (address, _):
            subprocess.run(sys.argv[1:], env={**os.environ, "FACEDIFFUSER_URL": address}, cwd=ROOT, check=True)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
