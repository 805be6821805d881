"""Serves the runtime, and says where."""

import argparse
import socket

import uvicorn

from .app import app

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, default=8001, help="0: any that is free")
arguments = parser.parse_args()

listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", arguments.port))
listener.listen(1024)
# Connections wait in the listener's queue until it serves.
print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])
