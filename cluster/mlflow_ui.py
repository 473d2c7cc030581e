"""MLflow's own pages on a run's database."""

import os
import signal
import socket
import subprocess
import sys

from rich.console import Console

from networks.errors import UserError


def serve(uri: str, port: int, console: Console) -> int:
    """Serve until Ctrl-C or a request to end; MLflow's exit status. Raises `UserError` for a port in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError("--port", port, "a free port of this machine", f"{error.strerror}.") from None
    console.print(f"MLflow at http://127.0.0.1:{port} (Ctrl-C ends it)")
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"]
    # Not an argument: those can be read by everyone on the machine, and it may hold a password.
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": uri}
    # In a session of its own: Ctrl-C would make MLflow print tracebacks, and a request to end does not.
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return server.wait()
    except KeyboardInterrupt:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        return 0
