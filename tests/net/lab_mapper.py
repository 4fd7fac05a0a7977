"""A router's port mapping daemon: Debian's miniupnpd with PCP, NAT-PMP and UPnP-IGD.

Its nftables backend writes into whatever tables and chains it is told; here into the router's own
(``lab_routers``). The package miniupnpd-nftables is the program alone and starts no service.
"""

import contextlib
import select
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

from net.lab_namespaces import entered

PROGRAM = "miniupnpd"
PORT = 5_351  # RFC 6886 §3, RFC 6887 §19
EXTERNAL_ADDRESS_REQUEST = bytes(2)  # RFC 6886 §3.2
PATIENCE, PAUSE = 10.0, 0.02  # seconds: until it answers, between two questions

CONFIGURATION = """\
ext_ifname=wan
listening_ip=lan
enable_natpmp=yes
enable_upnp=yes
secure_mode=yes
min_lifetime=1
max_lifetime=86400
system_uptime=no
upnp_table_name=home
upnp_nat_table_name=home
uuid={uuid}
allow 1-65535 0.0.0.0/0 1-65535
deny 0-65535 0.0.0.0/0 0-65535
"""


class Mapper:
    """One run of it, in a router's namespace, from when it answers until ``stop``.

    Args:
        namespace: of the router, whose interfaces are ``wan`` and ``lan``.
        address: the router's IPv4 address at its LAN.
    """

    def __init__(self, namespace: str, address: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix=f"{namespace}-")
        folder = Path(self._folder.name)
        configuration, self._log = folder / "configuration", folder / "log"
        configuration.write_text(CONFIGURATION.format(uuid=uuid.uuid4()))
        argv = [PROGRAM, "-d", "-f", str(configuration), "-P", str(folder / "pid")]
        with entered(namespace), self._log.open("w") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=folder)
        try:
            self._wait(namespace, address)
        except BaseException:
            self.stop()
            raise

    def log(self) -> str:
        """What it said."""
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """End it at once, as when the power goes: it removes no mapping and tells nobody."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _wait(self, namespace: str, address: str) -> None:
        with entered(namespace):
            asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with asking:
            asking.connect((address, PORT))
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end and self._process.poll() is None:
                with contextlib.suppress(ConnectionRefusedError):
                    asking.send(EXTERNAL_ADDRESS_REQUEST)
                if select.select([asking], [], [], PAUSE)[0]:
                    with contextlib.suppress(ConnectionRefusedError):
                        asking.recv(64)
                        return
        raise TimeoutError(f"{PROGRAM} does not answer:\n{self.log()}")
