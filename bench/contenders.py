"""The peers. Each setup(c) starts daemons in the two namespaces; see README.md."""
import base64
import json
import os
import random
import re
import subprocess
import time

from world import ENV, IPERF_PORT, NSL, NSR, OL, OR, REPO, UL, UR, contender, sh, which

ENDS = ((NSL, UL, OL, UR, OR, "L"), (NSR, UR, OR, UL, OL, "R"))   # ns, my underlay, my overlay, peer underlay, peer overlay, tag


def ver(cmd, rx=r"(.*)"):
    def f():
        o = subprocess.run(cmd, shell=True, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
        m = re.search(rx, o)
        return m.group(1).strip() if m else o.strip()[:60]
    return f


def deb(p):
    return ver(f"dpkg-query -W -f '${{Version}}' {p}", r"(.*)")


# ---------------------------------------------------------------- floors
@contender("veth-raw", kind="floor", version="kernel")
def veth_raw(c):
    return {"host": UR, "port": IPERF_PORT}


def tuncat(mode):
    def setup(c):
        for ns, ul, ol, pul, pol, t in ENDS:
            c.spawn(ns, [which("tuncat"), f"tc{t}", ul, "7000", pul, "7000", mode])
            c.wait_if(ns, f"tc{t}")
            if mode == "gso":
                c.sh(ns, f"ip link set tc{t} gso_max_size 60000")
            c.up(ns, f"tc{t}", ol, pol, 1420)
    return setup


contender("tun-cat", needs=["tuncat"], kind="floor", version="helpers/tuncat.c plain")(tuncat("plain"))
contender("tun-cat-gso", needs=["tuncat"], kind="floor", version="helpers/tuncat.c gso")(tuncat("gso"))


# ---------------------------------------------------------------- ShadowMesh
SHADOWMESH = os.environ.get("SHADOWMESH") or os.path.join(REPO, "target/release/shadowmesh")


def overlay_conf(c, t, key, peer, peer_pub, extra="", more="", node=""):
    ns, ul, ol, pul, pol, _ = ENDS[0 if t == "L" else 1]
    keyfile = c.write(f"{t}.key", key + "\n")
    return c.write(f"bench{t}.toml", f"""[node]
private_key_file = "{keyfile}"
listen = "0.0.0.0:9443"
{node}[tun]
name = "sm{t}"
address = ["{ol}/24"]
[[peer]]
name = "peer{peer}"
public_key = "{peer_pub}"
endpoint = "{pul}:9443"
allowed_ips = ["{pol}/32"]
{extra}{more}""")


def idle_peers(count, routes_each):
    """`count` peers that never call, with `routes_each` /32 prefixes each out of 172.16.0.0/12."""
    rng, out, n = random.Random(1), [], 0
    for i in range(count):
        routes = []
        for _ in range(routes_each):
            routes.append(f"172.{16 + (n >> 16)}.{n >> 8 & 255}.{n & 255}/32")
            n += 1
        key = base64.b64encode(rng.randbytes(31) + b"\0").decode()
        out.append(f'[[peer]]\nname = "idle{i}"\npublic_key = "{key}"\nallowed_ips = {json.dumps(routes)}\n')
    return "".join(out)


def shadowmesh(c, extra="", more="", node=""):
    """Two nodes; `more` is appended to the left one's configuration, `node` to both [node] sections."""
    key = {t: sh([SHADOWMESH, "genkey"]).strip() for t in "LR"}
    pub = {t: sh([SHADOWMESH, "pubkey"], inp=key[t] + "\n").strip() for t in "LR"}
    state = os.path.join(c.dir, "state")
    os.makedirs(state, exist_ok=True)
    confs = []
    for ns, ul, ol, pul, pol, t in ENDS:
        peer = "R" if t == "L" else "L"
        confs.append(overlay_conf(c, t, key[t], peer, pub[peer], extra, more if t == "L" else "", node))
        c.spawn(ns, [SHADOWMESH, "up", "-c", confs[-1]], env={"SHADOWMESH_STATE_DIR": state})
    for ns, ul, ol, pul, pol, t in ENDS:
        c.wait_if(ns, f"sm{t}")
    c.status = lambda: [json.loads(sh([SHADOWMESH, "status", "-c", conf, "--json"])) for conf in confs]


contender("shadowmesh", needs=[SHADOWMESH], version=ver(f"{SHADOWMESH} version"))(lambda c: shadowmesh(c))
contender("shadowmesh-wg", needs=[SHADOWMESH], version="protocol = \"wireguard\"")(lambda c: shadowmesh(c, 'protocol = "wireguard"\n'))
contender("shadowmesh-aes", needs=[SHADOWMESH], version="cipher = \"aes-256-gcm\"")(lambda c: shadowmesh(c, node='cipher = "aes-256-gcm"\n'))
contender("shadowmesh-faketcp", needs=[SHADOWMESH], version="carriers = [\"faketcp\"]")(lambda c: shadowmesh(c, 'carriers = ["faketcp"]\n'))
contender("shadowmesh-tcp", needs=[SHADOWMESH], version="carriers = [\"tcp\"]")(lambda c: shadowmesh(c, 'carriers = ["tcp"]\n'))
contender("shadowmesh-1000", needs=[SHADOWMESH], version="1,000 peers, 10,000 routes on the left")(lambda c: shadowmesh(c, more=idle_peers(999, 10)))


# ---------------------------------------------------------------- WireGuard implementations
_keys = {}


def wgkeys():
    if not _keys:
        for t in "LR":
            _keys[t] = sh(["wg", "genkey"]).strip()
            _keys[t + "pub"] = sh(["wg", "pubkey"], inp=_keys[t]).strip()
    return _keys


def wg_pair(c, argv, env=None, mtu=1420, endpoint=None):
    """argv: command with {} for the interface name. endpoint: {tag: 'ip:port'|None} override."""
    k = wgkeys()
    for ns, ul, ol, pul, pol, t in ENDS:
        ifn, sock = f"wgb{t}", f"/var/run/wireguard/wgb{t}.sock"
        if os.path.exists(sock):
            os.unlink(sock)
        c.spawn(ns, [a.format(ifn) for a in argv], env=env)
        c.wait_if(ns, ifn)
        c.wait("uapi", lambda: os.path.exists(sock))
        kf = c.write(f"key{t}", k[t] + "\n")
        peer = "R" if t == "L" else "L"
        ep = endpoint[t] if endpoint else f"{pul}:51820"
        cmd = f"wg set {ifn} private-key {kf} listen-port 51820 peer {k[peer + 'pub']} allowed-ips 10.77.0.0/24" + (f" endpoint {ep}" if ep else "")
        c.wait("wg set", lambda: c.sh(ns, cmd) is not None, 5)
        c.up(ns, ifn, ol, pol, mtu)


WGGO = "/usr/bin/wireguard-go"


@contender("wireguard-go", needs=[WGGO, "wg"], version=deb("wireguard-go"))
def wg_go(c):
    wg_pair(c, [WGGO, "-f", "{}"])


@contender("boringtun", needs=["boringtun-cli", "wg"], baseline=True, version=ver("boringtun-cli --version"))
def boringtun(c):
    wg_pair(c, [which("boringtun-cli"), "-f", "--disable-drop-privileges", "{}"])


@contender("gotatun", needs=["gotatun", "wg"], version=ver("gotatun --version"))
def gotatun(c):
    wg_pair(c, [which("gotatun"), "-f", "--disable-drop-privileges", "{}"])


def phantun(c, fwd_udp_port, listen_port):
    """Fake-TCP pair, routed instead of NATed: left 127.0.0.1:listen_port (udp) -> right 127.0.0.1:fwd_udp_port (udp)."""
    c.spawn(NSR, [which("phantun-server"), "-4", "--local", "4567", "--remote", f"127.0.0.1:{fwd_udp_port}", "--tun", "phR"])
    c.wait_if(NSR, "phR")
    c.right("ip link set phR txqueuelen 1000; ip route add 192.168.200.0/24 via " + UL)
    c.spawn(NSL, [which("phantun-client"), "-4", "--local", f"127.0.0.1:{listen_port}", "--remote", "192.168.201.2:4567", "--tun", "phL"])
    c.wait_if(NSL, "phL")
    c.left("ip link set phL txqueuelen 1000; ip route add 192.168.201.0/24 via " + UR)
    c.wait_listen(NSL, listen_port, "udp")


@contender("wg-go+phantun", needs=[WGGO, "wg", "phantun-client", "phantun-server"], version=ver("phantun-client --version"))
def wg_phantun(c):
    phantun(c, 51820, 12000)
    wg_pair(c, [WGGO, "-f", "{}"], mtu=1428 - 8, endpoint={"L": "127.0.0.1:12000", "R": None})


@contender("boringtun+phantun", needs=["boringtun-cli", "wg", "phantun-client", "phantun-server"], version=ver("phantun-client --version"))
def boringtun_phantun(c):
    phantun(c, 51820, 12000)
    wg_pair(c, [which("boringtun-cli"), "-f", "--disable-drop-privileges", "{}"], mtu=1428 - 8, endpoint={"L": "127.0.0.1:12000", "R": None})


# ---------------------------------------------------------------- classic VPN daemons
def ovpn_cert(c, t):
    key, crt = f"{c.dir}/{t}.key", f"{c.dir}/{t}.crt"
    sh(f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {key} -out {crt} -days 30 -subj /CN=bench{t}", timeout=30)
    return key, crt, sh(f"openssl x509 -in {crt} -noout -fingerprint -sha256").split("=")[1].strip()


@contender("openvpn", needs=["openvpn", "openssl"], version=deb("openvpn"))
def openvpn(c):
    certs = {t: ovpn_cert(c, t) for t in "LR"}
    for ns, ul, ol, pul, pol, t in reversed(ENDS):
        key, crt, _ = certs[t]
        fp = certs["R" if t == "L" else "L"][2]
        cmd = [which("openvpn"), "--dev", f"ov{t}", "--dev-type", "tun", "--ifconfig", ol, pol, "--local", ul, "--port", "1194", "--proto", "udp",
               "--cert", crt, "--key", key, "--peer-fingerprint", fp, "--data-ciphers", "AES-256-GCM", "--disable-dco", "--verb", "1"]
        cmd += ["--tls-server", "--dh", "none"] if t == "R" else ["--tls-client", "--remote", pul, "1194"]
        c.spawn(ns, cmd)
        c.wait_if(ns, f"ov{t}")


@contender("nebula", needs=["nebula", "nebula-cert"], version=deb("nebula"))
def nebula(c):
    d = c.dir
    sh(f"cd {d} && nebula-cert ca -name bench && nebula-cert sign -name L -ip {OL}/24 && nebula-cert sign -name R -ip {OR}/24")
    for ns, ul, ol, pul, pol, t in ENDS:
        f = c.write(f"{t}.yml", f"""
pki: {{ca: {d}/ca.crt, cert: {d}/{t}.crt, key: {d}/{t}.key}}
static_host_map: {{"{pol}": ["{pul}:4242"]}}
lighthouse: {{am_lighthouse: false, interval: 60, hosts: []}}
listen: {{host: {ul}, port: 4242}}
punchy: {{punch: false}}
tun: {{disabled: false, dev: neb{t}, drop_local_broadcast: false, drop_multicast: false, tx_queue: 500, mtu: 1300}}
logging: {{level: error, format: text}}
firewall:
  conntrack: {{tcp_timeout: 12m, udp_timeout: 3m, default_timeout: 10m}}
  outbound: [{{port: any, proto: any, host: any}}]
  inbound: [{{port: any, proto: any, host: any}}]
""")
        c.spawn(ns, [which("nebula"), "-config", f])
        c.wait_if(ns, f"neb{t}")


@contender("tinc", needs=["tincd"], version=deb("tinc"))
def tinc(c):
    hosts = {}
    for ns, ul, ol, pul, pol, t in ENDS:
        os.makedirs(f"{c.dir}/{t}/hosts")
        sh(f"openssl genrsa -traditional -out {c.dir}/{t}/rsa_key.priv 2048; openssl rsa -in {c.dir}/{t}/rsa_key.priv -RSAPublicKey_out", timeout=30)
        pub = sh(f"openssl rsa -in {c.dir}/{t}/rsa_key.priv -RSAPublicKey_out 2>/dev/null")
        hosts[t] = f"Address = {ul}\nSubnet = {ol}/32\n{pub}"
    for ns, ul, ol, pul, pol, t in reversed(ENDS):
        o = "R" if t == "L" else "L"
        for h in "LR":
            c.write(f"{t}/hosts/{h}", hosts[h])
        c.write(f"{t}/tinc.conf", f"Name = {t}\nConnectTo = {o}\nInterface = tinc{t}\nDeviceType = tun\nAddressFamily = ipv4\n")
        c.write(f"{t}/tinc-up", f"#!/bin/sh\nip addr add {ol}/24 dev $INTERFACE\nip link set $INTERFACE up\n", 0o755)
        c.spawn(ns, [which("tincd"), "-c", f"{c.dir}/{t}", "-D", f"--pidfile={c.dir}/{t}.pid"])
        c.wait_if(ns, f"tinc{t}")
    c.wait("tinc meta", lambda: c.left(["ping", "-c1", "-W1", OR]), 15)
    # its path-MTU probing must settle first: until then data goes over the TCP meta connection
    c.left(["ping", "-q", "-s", "1300", "-i", "0.1", "-c", "80", OR], check=False)


@contender("fastd", needs=["fastd"], version=deb("fastd"))
def fastd(c):
    k = {}
    for t in "LR":
        o = sh(["fastd", "--generate-key", "--machine-readable"]).strip()
        k[t] = o
        k[t + "p"] = sh(f"cd {c.dir} && echo 'secret \"{o}\";' > s{t}.conf && fastd --show-key --machine-readable --config s{t}.conf").strip()
    for ns, ul, ol, pul, pol, t in ENDS:
        o = "R" if t == "L" else "L"
        f = c.write(f"{t}.conf", f"""
log level warn; mode tun; interface "fd{t}"; mtu 1406; method "salsa2012+umac"; bind {ul}:10000; secret "{k[t]}";
peer "p" {{ key "{k[o + 'p']}"; remote {pul}:10000; }}
on up "ip addr add {ol}/24 dev $INTERFACE && ip link set $INTERFACE up";
""")
        c.spawn(ns, [which("fastd"), "--config", f])
        c.wait_if(ns, f"fd{t}")


@contender("vpncloud", needs=["vpncloud"], version=ver("vpncloud --version"))
def vpncloud(c):
    for ns, ul, ol, pul, pol, t in ENDS:
        # it panics at start unless a UDP socket can be *connected* (no packet) to 8.8.8.8; give it a route that stays inside
        c.sh(ns, f"ip route add 8.8.8.8/32 via {pul}")
        c.spawn(ns, [which("vpncloud"), "--listen", f"{ul}:3210", "--peer", f"{pul}:3210", "--password", "benchbench", "--type", "tun",
                     "--device", f"vc{t}", "--claim", f"{ol}/32", "--no-auto-claim", "--no-port-forwarding"])
        c.wait_if(ns, f"vc{t}")
        time.sleep(.3)
        c.up(ns, f"vc{t}", ol, pol, 1427)   # its own --ip sets 0.1.0.0/8 when built with today's rustc


# ---------------------------------------------------------------- newer Rust VPNs
def quincy_setup(c):
    k = wgkeys()
    c.write("users.toml", f'[users.bench]\nauthorized_keys = ["{k["Lpub"]}"]\n')
    s = c.write("server.toml", f"""
name = "bench"
interface_name = "qR"
bind_address = "{UR}"
bind_port = 55555
tunnel_network = "{OR}/24"
users_file = "{c.dir}/users.toml"
[protocol]
mode = "noise"
key_exchange = "standard"
private_key = "{k['R']}"
[log]
level = "error"
""")
    cl = c.write("client.toml", f"""
connection_string = "{UR}:55555"
[protocol]
mode = "noise"
key_exchange = "standard"
server_public_key = "{k['Rpub']}"
private_key = "{k['L']}"
[network]
interface_name = "qL"
[log]
level = "error"
""")
    c.spawn(NSR, [which("quincy-server"), "--config-path", s])
    c.wait_listen(NSR, 55555, "udp")
    c.spawn(NSL, [which("quincy-client"), "--config-path", cl])
    c.wait_if(NSL, "qL")
    c.wait_if(NSR, "qR")


contender("quincy", needs=["quincy-server", "quincy-client"], version="3.1.1 (crates.io)")(quincy_setup)


@contender("easytier", needs=["easytier-core"], version=ver("easytier-core --version"))
def easytier(c):
    for ns, ul, ol, pul, pol, t in reversed(ENDS):
        cmd = [which("easytier-core"), "-i", ol, "--network-name", "bench", "--network-secret", "bench", "--dev-name", f"et{t}",
               "--hostname", t, "-l", f"udp://{ul}:11010", "--rpc-portal", "127.0.0.1:15888", "--disable-ipv6", "--multi-thread"]
        if t == "L":
            cmd += ["-p", f"udp://{pul}:11010"]
        c.spawn(ns, cmd)
    for ns, t in ((NSL, "L"), (NSR, "R")):
        c.wait_if(ns, f"et{t}")
    c.wait("easytier route", lambda: c.left(["ping", "-c1", "-W1", OR]), 30)


# ---------------------------------------------------------------- table 2 only: plain TCP and forwarders
P = 12000
FWD = {"host": "127.0.0.1", "port": P}


def plain(c):
    return {"host": UR, "port": IPERF_PORT}


contender("plain-tcp+cubic", kind="proxy", version="kernel")(plain)
contender("plain-tcp+bbr", kind="proxy", version="kernel")(plain)
contender("wireguard-go+bbr", needs=[WGGO, "wg"], kind="proxy", version="")(lambda c: (wg_go(c), {"host": OR, "port": IPERF_PORT})[1])


def shadowmesh_streams(c, section, port=9443):
    """Two nodes without an interface, with streams: `section` is added to the left one's configuration, the right one is an exit."""
    key = {t: sh([SHADOWMESH, "genkey"]).strip() for t in "LR"}
    pub = {t: sh([SHADOWMESH, "pubkey"], inp=key[t] + "\n").strip() for t in "LR"}
    sections = {"L": section, "R": '[exit]\nallow = ["127.0.0.0/8"]\n'}
    for ns, ul, ol, pul, pol, t in reversed(ENDS):
        peer = "R" if t == "L" else "L"
        keyfile = c.write(f"{t}{port}.key", key[t] + "\n")
        conf = c.write(f"streams{t}{port}.toml", f"""[node]
private_key_file = "{keyfile}"
listen = "0.0.0.0:{port}"
[[peer]]
name = "peer"
public_key = "{pub[peer]}"
endpoint = "{pul}:{port}"
{sections[t]}""")
        c.spawn(ns, [SHADOWMESH, "up", "-c", conf], env={"SHADOWMESH_STATE_DIR": c.dir})


def sm_forward(c):
    """A forwarded port on streams of a session between two nodes without an interface."""
    shadowmesh_streams(c, f'[[forward]]\nlisten = "127.0.0.1:{P}"\ntarget = "127.0.0.1:{IPERF_PORT}"\nvia = "peer"\n')
    c.wait_listen(NSL, P)
    return FWD


contender("shadowmesh-forward", needs=[SHADOWMESH], kind="proxy", version="[[forward]] on streams, adaptive FEC")(sm_forward)


def kcptun(snd, server=("kcptun-server",), client=("kcptun-client",)):
    def setup(c):
        common = ["--key", "bench", "--crypt", "aes-128", "--mode", "fast2", "--nocomp", "--sndwnd", str(snd), "--rcvwnd", str(max(snd, 1024)), "--quiet"]
        c.spawn(NSR, [which(server[0]), *server[1:], "-t", "127.0.0.1:5201", "-l", f"{UR}:4000"] + common)
        c.wait_listen(NSR, 4000, "udp")
        c.spawn(NSL, [which(client[0]), *client[1:], "-r", f"{UR}:4000", "-l", f"127.0.0.1:{P}"] + common)
        c.wait_listen(NSL, P)
        return FWD
    return setup


contender("kcptun", needs=["kcptun-server", "kcptun-client"], kind="proxy", version=deb("kcptun"))(kcptun(1024))
contender("shadowmesh-kcptun", needs=[SHADOWMESH], kind="proxy", version="in place of kcptun, same flags")(
    kcptun(1024, (SHADOWMESH, "kcptun", "server"), (SHADOWMESH, "kcptun", "client")))
contender("kcptun-w4096", needs=["kcptun-server", "kcptun-client"], kind="proxy", version=deb("kcptun"))(kcptun(4096))


def ss_libev(c):
    c.spawn(NSR, [which("ss-server"), "-s", UR, "-p", "8388", "-k", "bench", "-m", "aes-256-gcm"])
    c.wait_listen(NSR, 8388)
    c.spawn(NSL, [which("ss-tunnel"), "-s", UR, "-p", "8388", "-b", "127.0.0.1", "-l", str(P), "-k", "bench", "-m", "aes-256-gcm", "-L", "127.0.0.1:5201"])
    c.wait_listen(NSL, P)
    return FWD


def ss_rust(c):
    c.spawn(NSR, [which("ssserver"), "-s", f"{UR}:8388", "-k", "bench", "-m", "aes-256-gcm"])
    c.wait_listen(NSR, 8388)
    c.spawn(NSL, [which("sslocal"), "--protocol", "tunnel", "-b", f"127.0.0.1:{P}", "-s", f"{UR}:8388", "-k", "bench", "-m", "aes-256-gcm", "-f", "127.0.0.1:5201"])
    c.wait_listen(NSL, P)
    return FWD


contender("ss-libev", needs=["ss-server", "ss-tunnel"], kind="proxy", version=deb("shadowsocks-libev"))(ss_libev)
for _n in ("ss-rust", "ss-rust+bbr"):
    contender(_n, needs=["ssserver", "sslocal"], kind="proxy", version=ver("ssserver --version"))(ss_rust)


@contender("ssh-L", needs=["ssh", "/usr/sbin/sshd"], kind="proxy", version=deb("openssh-server"))
def ssh_l(c):
    os.makedirs("/run/sshd", exist_ok=True)
    for k in ("host", "user"):
        sh(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{c.dir}/{k}"])
    os.chmod(c.dir, 0o700)
    cfg = c.write("sshd_config", f"Port 2222\nListenAddress {UR}\nHostKey {c.dir}/host\nAuthorizedKeysFile {c.dir}/user.pub\nStrictModes no\nUsePAM no\n"
                  "PidFile none\nPermitRootLogin yes\nAllowTcpForwarding yes\nPasswordAuthentication no\n")
    c.spawn(NSR, ["/usr/sbin/sshd", "-D", "-e", "-f", cfg])
    c.wait_listen(NSR, 2222)
    c.spawn(NSL, ["/usr/bin/ssh", "-F", "none", "-N", "-L", f"127.0.0.1:{P}:127.0.0.1:5201", "-i", f"{c.dir}/user", "-o", "StrictHostKeyChecking=no",
                  "-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", "-p", "2222", f"root@{UR}"])
    c.wait_listen(NSL, P)
    return FWD


@contender("phantun-udp", needs=["phantun-client", "phantun-server", "socat"], kind="proxy", version="phantun 0.8.1 (crates.io)")
def phantun_udp(c):
    phantun(c, 5201, P)
    # iperf3's TCP control connection bypasses phantun
    c.spawn(NSL, [which("socat"), f"TCP-LISTEN:{P},fork,reuseaddr,bind=127.0.0.1", f"TCP:{UR}:5201"], aux=True)
    c.wait_listen(NSL, P)
    return dict(FWD, udp_only=True)


@contender("veth-udp", kind="proxy", version="kernel")
def veth_udp(c):
    return {"host": UR, "port": IPERF_PORT, "udp_only": True}


LOSSY_DEFAULT = ["shadowmesh-forward", "shadowmesh-kcptun", "plain-tcp+cubic", "plain-tcp+bbr", "kcptun", "ss-libev", "ss-rust", "ssh-L", "wireguard-go", "wireguard-go+bbr",
                 "quincy", "wg-go+phantun", "phantun-udp"]
