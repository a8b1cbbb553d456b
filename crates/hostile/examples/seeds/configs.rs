//! Configuration files, right and wrong.

use hostile::config::SECRET;

use crate::Seeds;

const PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

fn file(node: &str, tun: &str, peer: &str) -> Vec<u8> {
    format!(
        "[node]\nprivate_key = \"{SECRET}\"\nlisten = \"0.0.0.0:9443\"\n{node}\n[tun]\naddress = [\"10.77.0.1/24\", \
         \"fd77::1/64\"]\n{tun}\n[[peer]]\nname = \"right\"\npublic_key = \"{PUBLIC}\"\n\
         allowed_ips = [\"10.77.0.2/32\", \"fd77::2/128\"]\n{peer}"
    )
    .into_bytes()
}

pub(crate) fn all() -> Seeds {
    let second = |ips: &str| {
        format!(
            "[[peer]]\nname = \"third\"\npublic_key = \"{}\"\nallowed_ips = [{ips}]\n",
            PUBLIC.replace('h', "k")
        )
    };
    vec![
        ("plain", file("", "", "")),
        (
            "everything",
            file(
                "name = \"left\"\nworkers = 2\n",
                "name = \"shadow0\"\nmtu = 1420\n",
                &format!(
                    "endpoint = \"192.0.2.2:9443\"\npreshared_key = \"{SECRET}\"\nprotocol = \"wireguard\"\nkeepalive_s = 25\n"
                ),
            ),
        ),
        ("host-name-endpoint", file("", "", "endpoint = \"right.example.net:9443\"\n")),
        ("ipv6", file("", "name = \"mesh%d\"", "endpoint = \"[2001:db8::2]:9443\"\n")),
        ("two-peers", file("", "", &second("\"10.77.0.3/32\""))),
        ("overlapping-allowed-ips", file("", "", &second("\"10.77.0.2/32\""))),
        (
            "proxies",
            file(
                "",
                "",
                "[[socks5]]\nlisten = \"127.0.0.1:1080\"\nvia = \"right\"\n[[forward]]\nlisten = \"[::1]:53\"\n\
                 target = \"dns.example:53\"\nprotocol = \"udp\"\nvia = \"right\"\ndirection = \"remote\"\n[exit]\n\
                 allow = [\"10.1.0.0/16\", \"192.0.2.7:22\"]\nlisten = [\"127.0.0.1:8000-8099\"]\n",
            ),
        ),
        ("open-proxy", file("", "", "[[socks5]]\nlisten = \"0.0.0.0:1080\"\nvia = \"right\"\n")),
        ("unknown-key", file("lissten = \"0.0.0.0:1\"", "", "")),
        ("misspelt-key-of-a-key", format!("[node]\nprivat_key = \"{SECRET}\"\n").into_bytes()),
        ("key-in-the-wrong-section", format!("[tun]\nprivate_key = \"{SECRET}\"\n").into_bytes()),
        ("key-on-its-own-line", format!("[node]\nprivate_key =\n  \"{SECRET}\"\n").into_bytes()),
        ("key-in-many-lines", format!("[node]\nprivate_key = \"\"\"\n{SECRET}x\"\"\"\n").into_bytes()),
        ("key-too-short", format!("[node]\nprivate_key = \"{}\"\n", &SECRET[..40]).into_bytes()),
        (
            "key-and-key-file",
            file("private_key_file = \"left.key\"", "", "").into_iter().filter(|b| *b != b'/').collect(),
        ),
        ("mtu-too-small", file("", "mtu = 576", "")),
        ("interface-name-too-long", file("", "name = \"shadowshadowshadow\"", "")),
        ("bad-prefix", file("", "", &second("\"10.77.0.3/33\""))),
        ("cut-off", file("", "", "")[..97].to_vec()),
        ("empty", Vec::new()),
        ("not-toml", b"[node\nlisten = = \xc3\xa9\t\"\n".to_vec()),
    ]
}
