"""python-zeroconf as a peer: one line of fields with tabs between them for each thing that happens.

    zeroconf_peer.py browse ADDRESS TYPE              added NAME HOST PORT ADDRESSES ATTRIBUTES | removed NAME
    zeroconf_peer.py publish ADDRESS TYPE NAME PORT   published NAME; withdrawn when standard input ends
"""

import socket
import sys

from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, Zeroconf


def tell(*fields):
    print(*fields, sep="\t", flush=True)


class Listener:
    def add_service(self, zeroconf, service_type, name):
        info = zeroconf.get_service_info(service_type, name, timeout=10_000)
        if info is None:
            tell("unresolved", name)
            return
        attributes = sorted(
            key.decode() if value is None else f"{key.decode()}={value.decode()}"
            for key, value in info.properties.items()
        )
        addresses = ",".join(sorted(info.parsed_addresses()))
        tell("added", name, info.server, info.port, addresses, ",".join(attributes))

    def update_service(self, zeroconf, service_type, name):
        pass

    def remove_service(self, zeroconf, service_type, name):
        tell("removed", name)


def main():
    action, address, service_type, *more = sys.argv[1:]
    zeroconf = Zeroconf(interfaces=[address], ip_version=IPVersion.V4Only)
    if action == "browse":
        browser = ServiceBrowser(zeroconf, service_type + ".local.", Listener())
        tell("ready")
        sys.stdin.read()
        browser.cancel()
    else:
        name, port = more
        info = ServiceInfo(
            service_type + ".local.",
            f"{name}.{service_type}.local.",
            port=int(port),
            properties={"rp": "python", "color": None},
            server="snake.local.",
            addresses=[socket.inet_aton(address)],
        )
        zeroconf.register_service(info, allow_name_change=True)
        tell("published", info.name)
        sys.stdin.read()
        zeroconf.unregister_service(info)
    zeroconf.close()


main()
