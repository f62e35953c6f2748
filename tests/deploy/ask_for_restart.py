"""A stand-in for `systemctl restart`: asks the test at PORT to restart NODE, and waits for it.

python ask_for_restart.py PORT NODE
"""

from __future__ import annotations

import socket
import sys

if __name__ == "__main__":
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
        connection.sendall(f"{sys.argv[2]}\n".encode())
        sys.exit(0 if connection.recv(16) == b"done\n" else 1)
